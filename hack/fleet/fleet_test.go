package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/process"
)

// asVictim makes the test binary build a network and wait to be killed.
const asVictim = "KIOO_TEST_FLEET_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(asVictim) != "" {
		fmt.Println(victim())
		select {}
	}
	goleak.VerifyTestMain(m)
}

// need skips what needs namespaces, unless this is where all tests must run.
func need(t *testing.T) {
	t.Helper()
	why := Unavailable()
	switch {
	case why == "":
	case os.Getenv("CI") == "true" && os.Geteuid() == 0:
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	need(t)
	dir, err := newDir()
	if err != nil {
		t.Fatal(err)
	}
	n := &network{name: filepath.Base(dir), nodes: 2}
	t.Cleanup(func() {
		if err := errors.Join(n.close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(namespaces, n.name+"*")); left != nil {
			t.Errorf("left behind: %v", left)
		}
	})
	if err := n.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func attach(t *testing.T, n *network, number int, link Link) *Place {
	t.Helper()
	p, err := n.attach(t.Context(), fmt.Sprintf("node-%d", number), nodeAddr(number), link)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// flow sends for a while and returns bits per second, as the receiver saw them.
func flow(t *testing.T, from, to *Place) float64 {
	t.Helper()
	const bytes = 4 << 20
	l, err := to.Listen(to.Addr.String() + ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	go func() {
		conn, err := from.Dial(ctx, "tcp", l.Addr().String())
		if err == nil {
			_, err = conn.Write(make([]byte, bytes))
			err = errors.Join(err, conn.Close())
		}
		sent <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	n, err := io.Copy(io.Discard, conn)
	took := time.Since(start)
	if err := errors.Join(err, <-sent); err != nil || n != bytes {
		t.Fatalf("%d bytes arrived: %v", n, err)
	}
	return float64(n) * 8 / took.Seconds()
}

func TestLinksAreShaped(t *testing.T) {
	n := newNetwork(t)
	a, b := attach(t, n, 1, Link{Rate: 50e6}), attach(t, n, 2, Link{})
	check := func(from, to *Place, low, high float64) {
		t.Helper()
		rate := flow(t, from, to)
		for tries := 1; rate < low && tries < 3; tries++ {
			rate = flow(t, from, to)
		}
		if rate < low || rate > high {
			t.Errorf("%s to %s: %.1f Mbit/s, want %.0f to %.0f", from.Name, to.Name, rate/1e6, low/1e6, high/1e6)
		}
	}
	// A busy machine may be slower, but nothing may be faster.
	check(a, b, 25e6, 56e6)
	check(b, a, 25e6, 56e6)
	if err := a.Shape(t.Context(), Link{}); err != nil {
		t.Fatal(err)
	}
	check(a, b, 80e6, 1e12)
	if err := b.Shape(t.Context(), Link{Rate: 20e6}); err != nil {
		t.Fatal(err)
	}
	check(a, b, 10e6, 22.5e6)
}

func TestLatency(t *testing.T) {
	n := newNetwork(t)
	a := attach(t, n, 1, Link{})
	b, err := n.attach(t.Context(), "node-2", nodeAddr(2), Link{Rate: 1e9, Latency: 20 * time.Millisecond})
	if err != nil {
		if strings.Contains(err.Error(), "sch_netem") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	l, err := b.Listen(b.Addr.String() + ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	start := time.Now()
	conn, err := a.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if took := time.Since(start); took < 40*time.Millisecond {
		t.Errorf("connected after %v", took)
	}
}

func TestBlackLinkDropsSilently(t *testing.T) {
	n := newNetwork(t)
	a, b := attach(t, n, 1, Link{}), attach(t, n, 2, Link{})
	l, err := b.Listen(b.Addr.String() + ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		conn, err := a.Dial(ctx, "tcp", l.Addr().String())
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	if err := dial(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.Black(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Longer than it takes to find out that nobody answers for an address on the link.
	var timeout net.Error
	if err := dial(4 * time.Second); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("over a black link: %v, want silence", err)
	}
	for range 2 {
		if err := b.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := dial(5 * time.Second); err != nil {
		t.Errorf("after the link was restored: %v", err)
	}
}

func TestPlacesAreApart(t *testing.T) {
	n := newNetwork(t)
	a, b := attach(t, n, 1, Link{}), attach(t, n, 2, Link{})
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	for _, p := range []*Place{a, b} {
		if conn, err := p.Dial(t.Context(), "tcp", here.Addr().String()); err == nil {
			conn.Close()
			t.Errorf("%s reaches the machine's loopback", p.Name)
		}
		l, err := p.Listen("127.0.0.1:7000")
		if err != nil {
			t.Fatalf("%s: the same port a second time: %v", p.Name, err)
		}
		defer l.Close()
		out, err := p.Output(t.Context(), "ip", "-4", "-oneline", "addr")
		if err != nil || strings.Count(out, "inet ") != 2 || !strings.Contains(out, p.Addr.String()) {
			t.Errorf("%s has %q, %v", p.Name, out, err)
		}
	}
	if _, err := a.Dial(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("a name was looked up")
	}
}

// victim builds a network with a program in it, and tells what there is to be removed.
func victim() string {
	dir, err := newDir()
	if err != nil {
		return err.Error()
	}
	n := &network{name: filepath.Base(dir), nodes: 1}
	if err := n.open(context.Background()); err != nil {
		return err.Error()
	}
	p, err := n.attach(context.Background(), "node-1", nodeAddr(1), Link{})
	if err != nil {
		return err.Error()
	}
	sleep, err := p.Start(process.Config{Path: "sleep", Args: []string{"600"}})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %d", n.name, sleep.PID())
}

func TestTheKilledLeaveNothing(t *testing.T) {
	need(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asVictim+"=1")
	t.Cleanup(func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill() // If the test has not come that far.
		}
	})
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var (
		name string
		pid  int
	)
	if _, err := fmt.Sscan(line, &name, &pid); err != nil {
		t.Fatalf("the victim says %q", line)
	}
	left := func() []string {
		spaces, _ := filepath.Glob(filepath.Join(namespaces, name+"*"))
		dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), name+"*"))
		return append(spaces, dirs...)
	}
	if err := removeLeftovers(t.Context()); err != nil || len(left()) != 3 {
		t.Errorf("of a fleet that lives there is %v, %v", left(), err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // It was killed.
	for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(state), ") Z ") {
			break // Dead, and nobody's child but the machine's.
		}
		if time.Now().After(deadline) {
			t.Fatal("its program lives on")
		}
	}
	if err := removeLeftovers(t.Context()); err != nil || len(left()) != 0 {
		t.Errorf("of a dead fleet there is %v, %v", left(), err)
	}
}

func TestDead(t *testing.T) {
	started, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{
		fmt.Sprintf("kioo-fleet-%d-%s-1-node-1", os.Getpid(), started):  false,
		fmt.Sprintf("kioo-fleet-%d-%s0-1-node-1", os.Getpid(), started): true, // The id was given out again.
		"kioo-fleet-99999999-1-1":                                       true,
		"kioo-fleet-demo":                                               false,
		"kioo-fleet-a-b-c":                                              false,
		"somebody-99999999-1-1":                                         false,
	}
	for name, want := range tests {
		if got := dead(name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader("# HELP a What.\na 1\nb{x=\"1\",y=\"2\"} 2.5\nb{x=\"1\",y=\"3\"} 1e3\nbb{x=\"1\"} 7\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"a", nil, 1},
		{"a", []string{`x="1"`}, 0},
		{"b", nil, 1002.5},
		{"b", []string{`y="2"`}, 2.5},
		{"b", []string{`x="1"`, `y="3"`}, 1000},
		{"c", nil, 0},
	} {
		if got := m.Sum(tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s %v: %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
	for _, bad := range []string{"a", "a b"} {
		if _, err := parseMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
)

// patience bounds every wait of these tests; nothing takes a tenth of it.
const patience = 30 * time.Second

// buffer collects what a command prints while the test looks at it.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
	news chan struct{} // Has something after every write.
}

func newBuffer() *buffer { return &buffer{news: make(chan struct{}, 1)} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// wait returns what the pattern's group matches as soon as it does.
func (b *buffer) wait(t *testing.T, pattern string) string {
	t.Helper()
	deadline, re := time.After(patience), regexp.MustCompile(pattern)
	for {
		if m := re.FindStringSubmatch(b.String()); m != nil {
			return m[len(m)-1]
		}
		select {
		case <-b.news:
		case <-deadline:
			t.Fatalf("nothing that is like %s was printed:\n%s", pattern, b)
		}
	}
}

const ready = `"msg":"mirror is ready"`

// serving is a mirror that runs in this process.
type serving struct {
	out, err *buffer
	stop     func() int
}

// serveNow starts a mirror, and stops it at the end of the test at the latest.
func serveNow(t *testing.T, args ...string) *serving {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{out: newBuffer(), err: newBuffer()}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append([]string{"serve"}, args...), streams{out: s.out, err: s.err}) }()
	s.stop = sync.OnceValue(func() int {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { s.stop() })
	s.err.wait(t, ready)
	return s
}

// file writes a configuration without metrics, whose port another mirror on this machine may have.
func file(t *testing.T, more string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kioo.yaml")
	text := "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\nmetrics: {listen: ''}\nhealth: {listen: ''}\n" + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// status asks the mirror and returns the status of the answer.
func status(t *testing.T, url string) int {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

const mirrorLine = `mirror +(http://\S+)/v2/`

func testServeConfig(t *testing.T) {
	path := file(t, "dataDir: data\nmirror: {listen: ['127.0.0.1:0'], pathPrefix: /there}\nlog: {level: error, format: json}\n")
	ctx, cancel := context.WithCancel(t.Context())
	out, errs := newBuffer(), newBuffer()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"serve", "--config", path, "--guide"}, streams{out: out, err: errs})
	}()
	base := out.wait(t, mirrorLine)
	if !strings.HasSuffix(base, "/there") {
		t.Errorf("the mirror is at %s, not below the configured prefix", base)
	}
	if got := status(t, base+"/v2/"); got != http.StatusOK {
		t.Errorf("%s/v2/ answers %d", base, got)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "data", "cache")); err != nil {
		t.Errorf("the configured data directory is not used: %v", err)
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("serve ends with %d", code)
	}
	if errs.String() != "" {
		t.Errorf("at level error it logs %s", errs)
	}
}

func testServeDataDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	s := serveNow(t, "--config", file(t, "dataDir: other\nmirror: {listen: ['127.0.0.1:0']}\n"), "--data-dir", dir)
	if code := s.stop(); code != exitOK {
		t.Errorf("serve ends with %d: %s", code, s.err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cache")); err != nil {
		t.Errorf("the data directory of the flag is not used: %v", err)
	}
}

func testServeListen(t *testing.T) {
	s := serveNow(t, "--config", file(t, "dataDir: data\nmirror: {listen: ['127.0.0.9:1']}\n"),
		"--listen", "127.0.0.2:0", "--listen", "127.0.0.3:0", "--guide")
	for _, host := range []string{`127\.0\.0\.2`, `127\.0\.0\.3`} {
		url := s.out.wait(t, `(http://`+host+`:\d+/v2/)`)
		if got := status(t, url); got != http.StatusOK {
			t.Errorf("%s answers %d", url, got)
		}
	}
	if strings.Contains(s.out.String(), "127.0.0.9") {
		t.Errorf("the address of the configuration is used too: %s", s.out)
	}
	code, _, stderr := call(t, "serve", "--check", "--listen", "0.0.0.0:28500")
	want := "kioo: the flags do not go with the configuration:\nmirror.listen[0]: is \"0.0.0.0:28500\", which other machines"
	if code != exitFailed || !strings.HasPrefix(stderr, want) {
		t.Errorf("an address for all ends with %d and %q", code, stderr)
	}
}

func testServeCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "never")
	code, stdout, stderr := call(t, "serve", "--config", file(t, ""), "--data-dir", dir, "--check")
	if code != exitOK || stdout != "The configuration is valid.\n" || stderr != "" {
		t.Errorf("a valid file ends with %d and prints %q, %q", code, stdout, stderr)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a check made the data directory")
	}
	path := file(t, "flihgts:\n  grace: 1s\ncache:\n  maxBytes: 5 GB\n")
	code, stdout, stderr = call(t, "serve", "--config", path, "--check")
	want := fmt.Sprintf("kioo: the configuration is not valid:\n%s:5: flihgts: unknown field, did you mean \"flights\"?\n"+
		"%s:8: cache.maxBytes: is \"5 GB\", not a number of bytes such as 20Gi or 500M\n", path, path)
	if code != exitFailed || stdout != "" || stderr != want {
		t.Errorf("an invalid file ends with %d and prints %q, %q; want %q", code, stdout, stderr, want)
	}
}

func testServeGuide(t *testing.T) {
	path := file(t, "dataDir: data\nmirror: {listen: ['127.0.0.1:0']}\n")
	s := serveNow(t, "--config", path)
	s.stop()
	if s.out.String() != "" {
		t.Errorf("without a terminal it prints %s", s.out)
	}
	s = serveNow(t, "--config", path, "--guide")
	url := s.out.wait(t, `curl -i '(http://\S+)/v2/library/\S+'\n`)
	if got := status(t, url+"/v2/"); got != http.StatusOK {
		t.Errorf("the guide's %s/v2/ answers %d", url, got)
	}
}

func TestGuide(t *testing.T) {
	address := func(s string) net.Addr { return net.TCPAddrFromAddrPort(mustAddrPort(t, s)) }
	cfg := config.Default()
	cfg.DataDir = "/var/lib/kioo"
	var b strings.Builder
	g := guideFor("v1.2.3", cfg, []net.Addr{address("127.0.0.1:28500"), address("[::1]:28500")}, address("127.0.0.1:28504"), address("127.0.0.1:28503"))
	if err := g.write(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "guide.txt", b.String())
	if n := strings.Count(b.String(), "\n"); n > 26 {
		t.Errorf("the guide has %d lines, more than one screen", n)
	}
	b.Reset()
	cfg.Mirror.PathPrefix = "/mirror"
	if err := guideFor("v1.2.3", cfg, []net.Addr{address("0.0.0.0:28500")}, nil, nil).write(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "guide-prefix.txt", b.String())
	b.Reset()
	cfg.Mirror.PathPrefix, cfg.Containerd.CertsDir = "", "/etc/rancher/certs.d"
	if err := guideFor("v1.2.3", cfg, []net.Addr{address("127.0.0.1:28500")}, nil, nil).write(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "guide-certs.txt", b.String())
	b.Reset()
	cfg.Containerd.CertsDir = ""
	if err := guideFor("v1.2.3", cfg, []net.Addr{address("[::1]:28600")}, nil, nil).write(&b); err != nil {
		t.Fatal(err)
	}
	if want := "\n  kioo configure --mirror http://[::1]:28600\n"; !strings.Contains(b.String(), want) {
		t.Errorf("the guide to a mirror elsewhere lacks %q:\n%s", want, &b)
	}
}

func TestServeFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, stdout, stderr := call(t, "serve", "--config", file(t, "dataDir: data\n"), "--listen", taken.Addr().String(), "--guide")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "kioo: mirror.listen: ") {
		t.Errorf("a port that is taken ends with %d and prints %q, %q", code, stdout, stderr)
	}
	code, _, stderr = call(t, "serve", "--config", filepath.Join(t.TempDir(), "missing.yaml"))
	if code != exitFailed || !strings.Contains(stderr, "no such file") {
		t.Errorf("a missing configuration ends with %d and prints %q", code, stderr)
	}
}

// TestSignals runs a process of its own, because a signal is for a whole process.
func TestSignals(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "serve", "--config", file(t, "dataDir: data\n"), "--listen", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), asKioo+"=1")
			log := newBuffer()
			cmd.Stderr = log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			log.wait(t, ready)
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("after %v the process ended with %v:\n%s", signal, err, log)
			}
		})
	}
}

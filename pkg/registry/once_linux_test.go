package registry_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// paced makes a connection of the remote send no faster than Kioo reads on any machine that tests run on, and hold
// little that is not sent yet. What a test finds sent in vain is then Kioo's doing and not that of socket buffers,
// which can hold a whole blob.
func paced(t *testing.T) func(net.Conn) {
	return func(conn net.Conn) {
		tcp := conn.(*net.TCPConn)
		if err := tcp.SetWriteBuffer(64 << 10); err != nil {
			t.Error(err)
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		err = raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 40<<20); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestOnce has many clients for a blob at once, in ranges too, and one that leaves: each byte is asked for once, but
// for what is on the way when a second stream takes over the end of a first one. The first one was asked for all that
// follows, so what it is cut short by is what Kioo reads at once and what the sockets hold.
func TestOnce(t *testing.T) {
	const (
		streams = 4         // That a flight has at once, at most.
		step    = 256 << 10 // What a flight reads of a stream at once.
		onWay   = 2 << 20   // What upstream has sent in vain of a stream that was cut short. Measured: up to 0.9 MiB.
	)
	metrics := prometheus.NewRegistry()
	s := newStack(t, options{accepted: paced(t), metrics: metrics})
	body := pattern(32 << 20)
	d := s.remote.putBlob("org/app", body)
	path := blobPath("org/app", d)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			off := (i % 4) * len(body) / 5
			g := s.get(t, path, "Range", fmt.Sprintf("bytes=%d-", off))
			if g.status != 206 || g.err != nil || !bytes.Equal(g.body, body[off:]) {
				t.Errorf("client %d: %d, %d bytes, %v", i, g.status, len(g.body), g.err)
			}
		})
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Error(err)
	}
	conn.Close()
	group.Wait()

	asked := s.remote.count("GET " + path)
	if asked == 0 || asked > streams {
		t.Fatalf("upstream was asked %d times", asked)
	}
	cutShort := int64(asked - 1)
	s.remote.mu.Lock()
	sent := s.remote.sent - int64(len(body))
	s.remote.mu.Unlock()
	read := counter(t, metrics, "kioo_upstream_bytes_total") - int64(len(body))
	t.Logf("of %d streams, %d bytes were read twice, and %d sent in vain", asked, read, sent)
	if read < 0 || read > cutShort*step {
		t.Errorf("Kioo read %d bytes twice, and may %d", read, cutShort*step)
	}
	if sent > cutShort*onWay {
		t.Errorf("upstream sent %d bytes in vain, and may %d", sent, cutShort*onWay)
	}
}

// counter gives what all series of a counter have together.
func counter(t *testing.T, metrics prometheus.Gatherer, name string) (sum int64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name {
				sum += int64(m.GetCounter().GetValue())
			}
		}
	}
	return sum
}

package loadtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	idle        = 10_000
	loris       = 3_000 // More than the 2048 connections that the default configuration allows.
	stalled     = 300
	bombs       = 64
	requestTime = 10 * time.Second // How long Kioo waits for headers, and for bodies.
)

// victim runs Kioo with its default bounds, under a watch of its memory, and lets it hold a blob.
func victim(t *testing.T, size int64) (*kiootest.Kioo, v1.Descriptor) {
	t.Helper()
	up := registrytest.New(t, registrytest.Config{})
	blob := pushLayers(t, up, 41, size)[0]
	dir := t.TempDir()
	kioo := startKioo(t, dir, kiootest.Config(dir, map[string]string{registryName: up.URL()}))
	watchMemory(t, kioo)
	if err := fetch(t.Context(), client(t), blobURL(kioo, blob), blob); err != nil {
		t.Fatal(err)
	}
	return kioo, blob
}

// dial opens connections, which are closed without a trace at the end: thousands of them lingering would use up the
// ports of the next test.
func dial(t *testing.T, host string, n int) []*net.TCPConn {
	t.Helper()
	conns := make([]*net.TCPConn, n)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(64)
	for i := range conns {
		group.Go(func() error {
			conn, err := (&net.Dialer{Timeout: maxWait}).DialContext(ctx, "tcp", host)
			if err != nil {
				return err
			}
			conns[i] = conn.(*net.TCPConn)
			return conns[i].SetLinger(0)
		})
	}
	err := group.Wait()
	t.Cleanup(func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return conns
}

// needFiles skips a test that needs more open files than the system gives. CI must give them.
func needFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n && os.Getenv("CI") == "true" {
		t.Fatalf("CI must allow %d open files, not just %d: ulimit -n", n, limit.Cur)
	}
	if limit.Cur < n {
		t.Skipf("needs %d open files, %d are allowed", n, limit.Cur)
	}
}

// TestIdleConnections opens far more connections than Kioo keeps: half never say a word, half say nothing more after
// one request.
func TestIdleConnections(t *testing.T) {
	needFiles(t, idle+1000)
	kioo, blob := victim(t, 1_000_000)
	for i, conn := range dial(t, kioo.Host, idle) {
		if i%2 == 0 {
			continue
		}
		// Kioo closes old idle connections for new ones, so asking may fail; what counts is the client at the end.
		if _, err := fmt.Fprintf(conn, "GET /v2/ HTTP/1.1\r\nHost: %s\r\n\r\n", kioo.Host); err != nil {
			continue
		}
	}
	for range 20 {
		checkServed(t, kioo, blob)
	}
}

// TestSlowLoris opens more connections than Kioo keeps, and sends requests on them that never end, a byte at a time.
func TestSlowLoris(t *testing.T) {
	for name, request := range map[string]string{
		"headers": "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
		"body":    "POST /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) { slowLoris(t, request) })
	}
}

func slowLoris(t *testing.T, request string) {
	needFiles(t, loris+1000)
	kioo, blob := victim(t, 1_000_000)
	conns := dial(t, kioo.Host, loris)
	for _, conn := range conns {
		_, _ = io.WriteString(conn, request) // Closed ones don't matter.
	}
	ctx, cancel := context.WithTimeout(t.Context(), requestTime+5*time.Second)
	defer cancel()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for waiting := true; waiting; {
		checkServed(t, kioo, blob)
		select {
		case <-ctx.Done():
			waiting = false
		case <-ticker.C:
			for _, conn := range conns {
				_, _ = conn.Write([]byte("x"))
			}
		}
	}
	deadline := time.Now().Add(maxWait)
	for i, conn := range conns {
		if err := conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		drain(conn)
		if time.Now().After(deadline) {
			t.Fatalf("connection %d is still open after %v", i, requestTime+5*time.Second)
		}
	}
}

// TestStalledReaders asks for a blob many times and reads nothing of the answers.
func TestStalledReaders(t *testing.T) {
	kioo, blob := victim(t, 50_000_000)
	for _, conn := range dial(t, kioo.Host, stalled) {
		_, err := fmt.Fprintf(conn, "GET /v2/%s/blobs/%s?ns=%s HTTP/1.1\r\nHost: %s\r\n\r\n", repository, blob.Digest, registryName, kioo.Host)
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		checkServed(t, kioo, blob)
	}
}

// TestHeaderBombs sends headers that are too large in every way, many at once.
func TestHeaderBombs(t *testing.T) {
	kioo, blob := victim(t, 1_000_000)
	const mib = 1 << 20
	for name, bomb := range map[string]string{
		"one long value":   "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Bomb: " + strings.Repeat("x", mib) + "\r\n\r\n",
		"one long name":    "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("x", mib) + ": x\r\n\r\n",
		"many fields":      "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X-Bomb: x\r\n", mib/11) + "\r\n",
		"one long path":    "GET /v2/" + strings.Repeat("x/", mib/2) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"no end of a line": strings.Repeat("x", 4*mib),
	} {
		t.Run(name, func(t *testing.T) {
			var group errgroup.Group
			for i, conn := range dial(t, kioo.Host, bombs) {
				group.Go(func() error {
					if err := conn.SetDeadline(time.Now().Add(requestTime + maxWait)); err != nil {
						return err
					}
					return throw(i, conn, bomb)
				})
			}
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
			checkServed(t, kioo, blob)
		})
	}
}

// throw sends a bomb and wants it refused: by an answer or by the end of the connection, but not by silence.
func throw(i int, conn *net.TCPConn, bomb string) error {
	_, err := conn.Write([]byte(bomb))
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return fmt.Errorf("connection %d: neither taken nor refused: %w", i, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			return fmt.Errorf("connection %d: no answer: %w", i, err)
		}
		return nil // It was closed while we were still sending.
	}
	defer resp.Body.Close()
	drain(resp.Body)
	if resp.StatusCode < 400 || resp.StatusCode >= 500 {
		return fmt.Errorf("connection %d: status %s", i, resp.Status)
	}
	return nil
}

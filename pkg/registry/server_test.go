package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/registry"
)

// lures are requests whose bodies never come.
var lures = map[string]string{
	"a write":       "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
	"a read":        "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n",
	"of any length": "GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	"on demand":     "PUT /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n",
}

// TestMissingBodies has more clients than there may be connections announce bodies and send none: others are answered
// as if they were not there.
func TestMissingBodies(t *testing.T) {
	for name, lure := range lures {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, options{connections: 20})
			for range 40 {
				conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, lure); err != nil {
					t.Fatal(err)
				}
				// Whether it is answered or closed is not the point, but it must have been seen.
				_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			for range 30 {
				http.DefaultClient.CloseIdleConnections() // Each needs a new one.
				s.get(t, "/v2/").expect(t, 200)
			}
		})
	}
}

// pipes is a listener in memory, for tests whose time is a bubble's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// bubbled serves a handler in a bubble, and gives a connection to it.
func bubbled(t *testing.T, handler http.HandlerFunc, client func(conn net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- registry.NewServer(handler, 10, time.Second, logr.Discard()).Run(ctx, l) }()
		ours, theirs := net.Pipe()
		l.conns <- theirs
		client(ours)
		_ = ours.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestMissingBodyEnds shows that a client is answered at once, and its connection closed when the body is too late.
func TestMissingBodyEnds(t *testing.T) {
	for name, lure := range lures {
		t.Run(name, func(t *testing.T) {
			answer := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) }
			bubbled(t, answer, func(conn net.Conn) {
				began := time.Now()
				_, _ = io.WriteString(conn, lure)
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil || resp.StatusCode != http.StatusMethodNotAllowed || time.Since(began) != 0 {
					t.Fatalf("answered with %v, %v after %v", resp, err, time.Since(began))
				}
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) || time.Since(began) > 11*time.Second {
					t.Errorf("the connection ended with %v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// TestBodyOfRead sends a body with a read, whose answer takes long: the body's deadline does not end that.
func TestBodyOfRead(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(time.Hour):
			_, _ = io.WriteString(w, "b")
		case <-r.Context().Done():
		}
	}
	for name, request := range map[string]string{
		"all there": "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
		"missing":   "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, slow, func(conn net.Conn) {
				_, _ = io.WriteString(conn, request)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ab" {
					t.Errorf("got %q, %v", body, err)
				}
			})
		})
	}
}

// TestLogBounds makes everything of a request as long as the headers may be, and looks at what that costs in the log.
func TestLogBounds(t *testing.T) {
	lines := make(chan string, 10)
	log := funcr.New(func(_, line string) { lines <- line }, funcr.Options{})
	s := newStack(t, options{registry: func(cfg *registry.Config) { cfg.Log = log }})
	long := strings.Repeat("x", 28<<10)
	for name, request := range map[string]func(){
		"path":   func() { s.get(t, "/v2/"+long).expect(t, 404) },
		"client": func() { s.get(t, "/v2/org/app/manifests/v1", "User-Agent", "é"+long).expect(t, 404) },
		"method": func() { s.do(t, long, "/v2/org/app/manifests/v1").expect(t, 405) },
		"name":   func() { s.get(t, fmt.Sprintf("/v2/%s/manifests/%s", long[:14<<10], long[:14<<10])).expect(t, 400) },
		"ns":     func() { s.get(t, "/v2/?ns="+long).expect(t, 400) },
		"range":  func() { s.get(t, "/v2/org/app/manifests/v1", "Range", long).expect(t, 404) },
	} {
		request()
		if line := <-lines; len(line) > 1500 {
			t.Errorf("%s: a line of %d bytes: %.600s", name, len(line), line)
		}
	}
}

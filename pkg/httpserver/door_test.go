package httpserver_test

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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/httpserver"
)

// abroad is a listener whose clients at 127.0.0.x seem to come from 10.0.0.x, but for 127.0.0.1, which is this machine.
type abroad struct{ net.Listener }

type abroadConn struct {
	*net.TCPConn
	remote net.Addr
}

func (c *abroadConn) RemoteAddr() net.Addr { return c.remote }

func (l *abroad) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	remote := *c.RemoteAddr().(*net.TCPAddr)
	if last := remote.IP.To4()[3]; last != 1 {
		remote.IP = net.IPv4(10, 0, 0, last)
	}
	return &abroadConn{c.(*net.TCPConn), &remote}, nil
}

// answerSize is that of metrics.
const answerSize = 50 << 10

// run serves small answers to clients from abroad until the test ends, and counts them.
func run(t *testing.T) (host string, answers *atomic.Int64) {
	t.Helper()
	answers = new(atomic.Int64)
	cfg := httpserver.Config{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			answers.Add(1)
			w.Header().Set("Content-Length", fmt.Sprint(answerSize))
			_, _ = io.WriteString(w, strings.Repeat("x", answerSize))
		}),
		MaxConnections: 64, HeaderTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute, MaxHeaderBytes: 4 << 10,
	}
	l := &abroad{listen(t)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- httpserver.New(cfg).Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	return l.Addr().String(), answers
}

// dial connects from 127.0.0.last until the test ends.
func dial(t *testing.T, host string, last byte) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, last)}, Timeout: 10 * time.Second}
	conn, err := d.DialContext(t.Context(), "tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.(*net.TCPConn).SetLinger(0); conn.Close() })
	return conn.(*net.TCPConn)
}

// ask asks once, on a connection of its own.
func ask(t *testing.T, host string, last byte) error {
	t.Helper()
	conn := dial(t, host, last)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != answerSize {
		return fmt.Errorf("%d bytes, %w", n, err)
	}
	return nil
}

// flood has connections pipeline requests and read none of the answers, and returns when the server can send no more.
func flood(t *testing.T, host string, answers *atomic.Int64, n int, last func(i int) byte) {
	t.Helper()
	requests := strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
	for i := range n {
		conn := dial(t, host, last(i))
		_ = conn.SetReadBuffer(4 << 10)
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(conn, requests) // It may have been closed for another one, or take no more.
	}
	deadline := time.Now().Add(time.Minute)
	for same, before := 0, int64(-1); same < 30; time.Sleep(10 * time.Millisecond) {
		now := answers.Load()
		if same++; now != before {
			same, before = 0, now
		}
		if time.Now().After(deadline) {
			t.Fatal("it answers for ever")
		}
	}
}

func anAddress(last byte) func(int) byte { return func(int) byte { return last } }

// TestNeverRead has a crowd pipeline requests and never read: others are answered each time they ask, from a machine of
// their own and from this one.
func TestNeverRead(t *testing.T) {
	for name, tt := range map[string]struct {
		crowd int
		last  func(i int) byte
	}{
		"as many as there may be, from one address":  {64, anAddress(2)},
		"a thousand, from one address":               {1000, anAddress(2)},
		"as many as there may be, from this machine": {64, anAddress(1)},
	} {
		t.Run(name, func(t *testing.T) {
			host, answers := run(t)
			flood(t, host, answers, tt.crowd, tt.last)
			for i := range 40 {
				last := byte(3)
				if i%2 == 0 && tt.last(0) != 1 { // Else it would be one of them.
					last = 1
				}
				if err := ask(t, host, last); err != nil {
					t.Fatalf("127.0.0.%d: %v", last, err)
				}
			}
		})
	}
}

// TestNeverReadBeside has the crowd be none that can be told from who asks: of the same source, or of so many sources
// that each has as little. He must wait until it shows that they do not read, and no longer.
func TestNeverReadBeside(t *testing.T) {
	for name, last := range map[string]func(i int) byte{
		"the same": anAddress(1), "many": func(i int) byte { return byte(10 + i%100) },
	} {
		t.Run(name, func(t *testing.T) {
			host, answers := run(t)
			flood(t, host, answers, 300, last)
			deadline := time.Now().Add(10 * time.Second) // Far less than the minute for which they are served.
			for done := 0; done < 20; {
				err := ask(t, host, last(0))
				switch {
				case err == nil:
					done++
				case time.Now().After(deadline):
					t.Fatal(err)
				}
			}
		})
	}
}

// TestShare has one address open what it can: half of the places stay free for others.
func TestShare(t *testing.T) {
	host, _ := run(t)
	var conns []*net.TCPConn
	for range 64 {
		conns = append(conns, dial(t, host, 2))
	}
	if err := ask(t, host, 3); err != nil {
		t.Error(err)
	}
	open := 0
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open != 32 {
		t.Errorf("%d connections of one address are open", open)
	}
}

// piped serves one connection in a bubble.
func piped(t *testing.T, change func(cfg *httpserver.Config), client func(conn net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		cfg := httpserver.Config{
			MaxConnections: 8, HeaderTimeout: 10 * time.Second, BodyTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 4 << 10,
		}
		change(&cfg)
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- httpserver.New(cfg).Run(ctx, l) }()
		ours, theirs := net.Pipe()
		l.conns <- theirs
		client(ours)
		_ = ours.Close()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

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

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// large answers with as many bytes as it is told.
func large(size int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.CopyN(w, zeros{}, size)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSlowReader reads a large answer in its own time: whoever reads gets all of it, and who stops is cut off.
func TestSlowReader(t *testing.T) {
	const size = 64 << 20
	get := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	read := func(conn net.Conn, rate int64, most int64) (n int64, took time.Duration) {
		began := time.Now()
		for n < most {
			m, err := io.CopyN(io.Discard, conn, min(rate, most-n))
			if n += m; err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		return n, time.Since(began)
	}
	large := func(cfg *httpserver.Config) { cfg.Handler = large(size) }
	piped(t, large, func(conn net.Conn) {
		_, _ = io.WriteString(conn, get)
		if n, took := read(conn, 80_000, size); n < size || took < 10*time.Minute {
			t.Errorf("a slow one got %d bytes in %v", n, took)
		}
	})
	piped(t, large, func(conn net.Conn) {
		_, _ = io.WriteString(conn, get)
		if n, took := read(conn, 40_000, size); n >= size/2 || took > 10*time.Minute {
			t.Errorf("one that is too slow got %d bytes in %v", n, took)
		}
	})
	piped(t, large, func(conn net.Conn) {
		_, _ = io.WriteString(conn, get)
		_, _ = read(conn, 1<<20, 8<<20)
		time.Sleep(61 * time.Second)
		if n, _ := read(conn, 1<<20, size); n > 2<<20 {
			t.Errorf("one that stopped got %d bytes more", n)
		}
	})
}

// TestDribble pipelines small answers and reads a little of them now and then: it is cut off all the same.
func TestDribble(t *testing.T) {
	piped(t, func(cfg *httpserver.Config) { cfg.Handler = large(10_000) }, func(conn net.Conn) {
		go func() {
			for {
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					return
				}
			}
		}()
		began := time.Now()
		for buf := make([]byte, 1000); time.Since(began) < time.Hour; time.Sleep(time.Second) {
			if _, err := conn.Read(buf); err != nil {
				break
			}
		}
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("it lasted %v", took)
		}
	})
}

// TestSlowRequests sends heads and bodies that never end, a byte a second: their connections end.
func TestSlowRequests(t *testing.T) {
	for name, request := range map[string]string{
		"head":    "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"body":    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"chunked": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n",
	} {
		for _, wanted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, wanted %v", name, wanted), func(t *testing.T) {
				piped(t, func(cfg *httpserver.Config) {
					cfg.Bodies = wanted
					cfg.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if wanted {
							_, _ = io.Copy(io.Discard, r.Body)
						}
					})
				}, func(conn net.Conn) {
					go func() { _, _ = io.Copy(io.Discard, conn) }()
					_, _ = io.WriteString(conn, request)
					began := time.Now()
					for time.Since(began) < time.Hour {
						if _, err := io.WriteString(conn, "x"); err != nil {
							break
						}
						time.Sleep(time.Second)
					}
					if took := time.Since(began); took > 15*time.Second {
						t.Errorf("it lasted %v", took)
					}
				})
			})
		}
	}
}

// TestWantedBody sends a body in time, asks again on the same connection, and waits long for an answer: neither the
// deadline of the body nor one that the handler has set ends what comes after it.
func TestWantedBody(t *testing.T) {
	piped(t, func(cfg *httpserver.Config) {
		cfg.Bodies = true
		cfg.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour))
			select {
			case <-time.After(50 * time.Minute):
				_, _ = w.Write(got)
			case <-r.Context().Done():
				t.Error("the wait was broken off")
			}
		})
	}, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for range 2 {
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "body" {
				t.Errorf("%q, %v", got, err)
			}
		}
	})
}

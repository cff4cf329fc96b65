// Package strangers keeps many connections open to a port, as whoever has no key and bad intentions does.
//
// It owns how they behave. What must go on meanwhile is for tests to say.
package strangers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTime = 5 * time.Second
	// pause is the time between the end of a connection and the next one; longPause that of connections that others end
	// at once. With less, the strangers of a test take the processors that it shares with what it tests.
	pause, longPause = 10 * time.Millisecond, 500 * time.Millisecond
	// drip is the time between two bytes of one that is slow.
	drip = 300 * time.Millisecond
)

// Behaviour is what a connection says, once it is open. It returns when there is nothing more to say; the connection
// stays open until the other side ends it.
type Behaviour func(ctx context.Context, conn net.Conn)

// Behaviours are all that there are, by name.
func Behaviours() map[string]Behaviour {
	hello := sync.OnceValue(greeting)
	return map[string]Behaviour{
		"idle":     func(context.Context, net.Conn) {},
		"slow":     slow,
		"nonsense": nonsense,
		"TLS":      func(_ context.Context, conn net.Conn) { _, _ = conn.Write(hello()) }, // It may be closed already.
		"HTTP":     request,
	}
}

// slow begins as members of libp2p do, a byte at a time.
func slow(ctx context.Context, conn net.Conn) {
	for i := 0; ; i++ {
		const opening = "\x13/multistream/1.0.0\n\xff"
		if _, err := conn.Write([]byte{opening[i%len(opening)]}); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drip):
		}
	}
}

func nonsense(_ context.Context, conn net.Conn) {
	junk := make([]byte, 4096)
	for i := range junk {
		junk[i] = byte(rand.Uint32())
	}
	_, _ = conn.Write(junk) // It may be closed already.
}

// greeting is how a handshake of TLS begins. It is the same each time: strangers save their own time.
func greeting() []byte {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() // It ends with the pipe.
	}()
	first := make([]byte, 16<<10)
	n, _ := server.Read(first) // A record is written at once.
	return first[:n]
}

func request(_ context.Context, conn net.Conn) {
	_, _ = io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n") // It may be closed already.
}

// Crowd says who comes.
type Crowd struct {
	// To is the port.
	To string
	// Connections is how many there are at any time: one that ends is opened again.
	Connections int
	// Sources are the addresses that they come from, in turn.
	Sources []netip.Addr
	// Behaviour is theirs. Nil is idle.
	Behaviour Behaviour
}

// Loopback gives n addresses of 127.0.0.0/8 that nobody else uses.
func Loopback(n int) []netip.Addr {
	sources := make([]netip.Addr, n)
	for i := range sources {
		sources[i] = netip.AddrFrom4([4]byte{127, 66, byte(i >> 8), byte(i)})
	}
	return sources
}

// Running is a crowd at work.
type Running struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	opened atomic.Int64
	first  sync.WaitGroup // Of each connection's first attempt.
}

// Start opens the connections, and returns when each has been tried once. Stop ends it.
func Start(ctx context.Context, c Crowd) (*Running, error) {
	if len(c.Sources) == 0 {
		return nil, fmt.Errorf("strangers come from nowhere to %s", c.To)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Running{stop: cancel}
	r.first.Add(c.Connections)
	for i := range c.Connections {
		r.done.Go(func() { r.keep(ctx, c, c.Sources[i%len(c.Sources)]) })
	}
	r.first.Wait()
	if r.opened.Load() == 0 {
		r.Stop()
		return nil, fmt.Errorf("none of %d connections to %s came about", c.Connections, c.To)
	}
	return r, nil
}

// Opened is how many connections there have been.
func (r *Running) Opened() int64 { return r.opened.Load() }

// Stop closes all of them, and returns when nothing runs any more.
func (r *Running) Stop() {
	r.stop()
	r.done.Wait()
}

// keep keeps one connection open until ctx ends.
func (r *Running) keep(ctx context.Context, c Crowd, from netip.Addr) {
	dialer := net.Dialer{Timeout: dialTime, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	first := sync.OnceFunc(r.first.Done)
	defer first()
	for ctx.Err() == nil {
		began := time.Now()
		conn, err := dialer.DialContext(ctx, "tcp", c.To)
		if err == nil {
			r.opened.Add(1)
			first()
			sit(ctx, conn, c.Behaviour)
		}
		first()
		wait := pause
		if time.Since(began) < longPause {
			wait = longPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// sit stays until the other side ends it, or ctx.
func sit(ctx context.Context, conn net.Conn, behave Behaviour) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	// Thousands of closed connections that linger would use up the ports of the next test.
	_ = conn.(*net.TCPConn).SetLinger(0)
	if behave != nil {
		behave(ctx, conn)
	}
	_, _ = io.Copy(io.Discard, conn) // The end, however it comes, is the point.
	_ = conn.Close()
}

// Package stranger is somebody who can open connections and nothing else: many of them, from many addresses, that say
// nothing, talk without end, talk nonsense, or ask and never read.
//
// What they are to keep from working is for those who use it.
package stranger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Dialer opens connections, in some place.
type Dialer interface {
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	// dialTime bounds one connection, and writeTime what it takes to say one thing.
	dialTime  = time.Second
	writeTime = 2 * time.Second
	// parallel is how many dial at once.
	parallel = 64
	// slowEvery is how often a slow one says one byte more.
	slowEvery = 500 * time.Millisecond
	// backAfter is how soon somebody who was thrown out is back. With less, thousands take the processors that they share
	// with what is tested.
	backAfter = 2 * time.Second
	// sendBuffer is what the kernel takes of what nobody reads. Filling more costs this side more than the other.
	sendBuffer = 4 << 10
)

// Manner is how strangers behave on a connection.
type Manner struct {
	Name string
	// Say is what is said first.
	Say string
	// More is said again and again, for as long as the other side takes it: nothing is ever read.
	More string
	// Slowly says one byte of More every half a second.
	Slowly bool
}

// Manners are those that every port should bear.
func Manners(host, path string) []Manner {
	get := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
	return []Manner{
		{Name: "idle"},
		{Name: "slow", Say: fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nX-Slow: ", path, host), More: "x", Slowly: true},
		{Name: "nonsense", Say: strings.Repeat("\x00\xff\x16\x03\x01 nonsense", 64)},
		{Name: "half a TLS hello", Say: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		{Name: "never reading", More: strings.Repeat(get, 32)},
	}
}

// Crowd is many connections. Keep opens those again that the other side closes, until Leave.
type Crowd struct {
	dialer  Dialer
	address string
	manner  Manner
	cancel  context.CancelFunc
	keeping sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// Come opens that many connections and keeps as many open, until Leave. It returns once all have been tried.
func Come(ctx context.Context, dialer Dialer, address string, manner Manner, n int) (*Crowd, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Crowd{dialer: dialer, address: address, manner: manner, cancel: cancel, conns: map[net.Conn]bool{}}
	var group errgroup.Group
	group.SetLimit(parallel)
	opened := make(chan net.Conn, n)
	for range n {
		group.Go(func() error {
			conn, err := c.open(ctx)
			if err == nil {
				opened <- conn
			}
			return nil // Refused is an answer too.
		})
	}
	_ = group.Wait() // Nobody fails.
	close(opened)
	taken := len(opened)
	for conn := range opened {
		c.keeping.Go(func() { c.keep(ctx, conn) })
	}
	if taken == 0 {
		c.Leave()
		return nil, errors.New("not one connection was taken")
	}
	return c, nil
}

func (c *Crowd) open(ctx context.Context) (net.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := c.dialer.Dial(dialing, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)               // Thousands that linger would use up the ports.
		_ = tcp.SetWriteBuffer(sendBuffer) // Else it is only dearer.
	}
	c.mu.Lock()
	c.conns[conn] = true
	c.mu.Unlock()
	return conn, nil
}

// keep behaves, and comes again when it is thrown out.
func (c *Crowd) keep(ctx context.Context, conn net.Conn) {
	for ctx.Err() == nil {
		c.behave(ctx, conn)
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
		_ = conn.Close() // It is of no use any more.
		for {
			if wait(ctx, backAfter) != nil {
				return
			}
			again, err := c.open(ctx)
			if err == nil {
				conn = again
				break
			}
		}
	}
	_ = conn.Close() // Likewise.
}

// behave returns when the other side has closed the connection, or ctx ends.
func (c *Crowd) behave(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // That ends all below.
	defer stop()
	if !say(conn, c.manner.Say) {
		return
	}
	switch {
	case c.manner.More == "":
		_, _ = io.Copy(io.Discard, conn) // Until the other side has had enough.
	case c.manner.Slowly:
		for wait(ctx, slowEvery) == nil && say(conn, c.manner.More) {
		}
	default:
		for say(conn, c.manner.More) {
		}
		// It takes no more, and nothing is read: that is the state to be in for as long as it goes.
		for wait(ctx, slowEvery) == nil && say(conn, "\r") {
		}
	}
}

// say says something, or as much as is taken in time. It is not ok when the connection is closed.
func say(conn net.Conn, what string) bool {
	_ = conn.SetWriteDeadline(time.Now().Add(writeTime)) // A closed one says so below.
	_, err := io.WriteString(conn, what)
	return err == nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Open is how many connections are open, as far as this side knows.
func (c *Crowd) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns)
}

// Leave closes all of them.
func (c *Crowd) Leave() {
	c.cancel()
	c.mu.Lock()
	for conn := range c.conns {
		_ = conn.Close() // It may be closed already.
	}
	c.mu.Unlock()
	c.keeping.Wait()
}

package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/door"
)

const (
	// handshakeTimeout is how long a new connection may take to show that it is a member's, from its first packet on.
	handshakeTimeout = 2 * time.Second
	// maxStrangers and maxListed bound how many handshakes are under way: of anybody, and from addresses that are listed
	// as members'. A member opens as many at once as it wants pieces of one other.
	maxStrangers, maxListed = 512, 1024
	handshakesPerSource     = 128
	// connectionsPerSource bounds what one member keeps open: it may follow as many blobs as are on their way, and fetch
	// pieces of them.
	connectionsPerSource = maxConnections / 8

	// acceptRetry is how long a listener pauses that can't accept, as when there are no more files to open.
	acceptRetry = 100 * time.Millisecond
)

// newDoor makes the limiter of the peer API's port. How many members' connections there are in all is for the HTTP
// server, which knows those that are idle.
func newDoor(lists func(netip.Addr) bool) *door.Door {
	return door.New(door.Config{
		Strangers: door.Share{Max: maxStrangers, PerSource: handshakesPerSource},
		Listed:    door.Share{Max: maxListed, PerSource: handshakesPerSource},
		Members:   door.Share{PerSource: connectionsPerSource},
		Lists:     lists,
	})
}

// secured is a net.Listener of connections that are members': their handshakes are done. So whoever never finishes one
// takes no place among them.
type secured struct {
	net.Listener
	tls  *tls.Config
	door *door.Door

	ready  chan *tls.Conn
	closed chan struct{}
	end    func() // Closes closed, once.
	err    error  // Why there are no more; set before failed is closed.
	failed chan struct{}
}

func newSecured(l net.Listener, cfg *tls.Config, door *door.Door) *secured {
	s := &secured{
		Listener: l, tls: cfg, door: door,
		ready: make(chan *tls.Conn), closed: make(chan struct{}), failed: make(chan struct{}),
	}
	s.end = sync.OnceFunc(func() { close(s.closed) })
	return s
}

// run shakes hands until the listener is closed.
func (s *secured) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var handshakes sync.WaitGroup
	for {
		conn, err := s.Listener.Accept()
		if err == nil {
			handshakes.Go(func() { s.greet(ctx, conn) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			s.err = err
			break
		}
		select {
		case <-time.After(acceptRetry):
		case <-s.closed:
		}
	}
	cancel()
	close(s.failed)
	handshakes.Wait()
}

// greet shakes hands with one that came, and passes it on if it is a member.
func (s *secured) greet(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	held := &inbound{Conn: raw, ticket: s.door.Admit(raw, raw.RemoteAddr())}
	conn := tls.Server(held, s.tls)
	if err := conn.HandshakeContext(ctx); err != nil || !held.ticket.Prove() {
		_ = held.Close() // Strangers fill no log.
		return
	}
	select {
	case s.ready <- conn:
	case <-s.closed:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (s *secured) Accept() (net.Conn, error) {
	select {
	case conn := <-s.ready:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	case <-s.failed:
		return nil, s.err
	}
}

// Close implements net.Listener.
func (s *secured) Close() error {
	s.end()
	return s.Listener.Close()
}

// inbound is a connection that holds a place.
type inbound struct {
	net.Conn
	ticket *door.Ticket
}

// Read implements net.Conn.
func (c *inbound) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.ticket.Read()
	}
	return n, err
}

// NetConn gives the connection below, as that of a tls.Conn does.
func (c *inbound) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *inbound) Close() error {
	c.ticket.Leave()
	return c.Conn.Close()
}

package discovery

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/kioo-dev/kioo/pkg/door"
	"github.com/libp2p/go-libp2p/core/transport"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"
)

const (
	// handshakeTimeout is how long an inbound connection may take, from its first packet on, until it is a member's that
	// can open streams. libp2p counts it as a whole, so that a byte now and then wins nothing.
	handshakeTimeout = 2 * time.Second

	// A handshake is two round trips, so that few are under way at once: even in a fleet that starts together it is one
	// for each member. A source may have as many as members that are tested on one machine.
	maxStrangers, strangersPerSource = 512, 64
	// Listed addresses are as many as there are members, each of which dials once or twice.
	maxListed, listedPerSource = 1024, 64
	// membersPerSource bounds who has the key and makes up identities; each identity may have maxConnsPerMember.
	membersPerSource = 128

	// relistEvery is how soon the listed addresses are asked for again while strangers push each other out: a new
	// member is listed before it dials for long.
	relistEvery = 2 * time.Second
	// listedFor is how long an address counts as listed after it was last named: names are not always answered in full.
	listedFor = 5 * time.Minute
)

// newDoor makes the limiter of the discovery port.
func newDoor(lists func(netip.Addr) bool, pressed func()) *door.Door {
	return door.New(door.Config{
		Strangers: door.Share{Max: maxStrangers, PerSource: strangersPerSource},
		Listed:    door.Share{Max: maxListed, PerSource: listedPerSource},
		Members:   door.Share{Max: maxConns, PerSource: membersPerSource},
		Lists:     lists, Pressed: pressed,
	})
}

// doorman is an upgrader whose listeners count their connections from the moment that they are accepted. libp2p's own
// bounds know neither sources nor strangers, and refuse the new where the old are too many.
type doorman struct {
	transport.Upgrader
	door *door.Door
}

// GateMaListener implements transport.Upgrader.
func (d *doorman) GateMaListener(l manet.Listener) transport.GatedMaListener {
	return d.Upgrader.GateMaListener(&listener{Listener: l, door: d.door})
}

type listener struct {
	manet.Listener
	door *door.Door
}

// Accept implements manet.Listener.
func (l *listener) Accept() (manet.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(tcpConn)
	if !ok {
		return nil, fmt.Errorf("accepted a %T, not a connection of TCP", c)
	}
	// Whoever is displaced leaves nothing behind, as with all of libp2p's connections.
	_ = tcp.SetLinger(0)
	return &inbound{tcpConn: tcp, ticket: l.door.Admit(tcp, c.RemoteAddr())}, nil
}

// tcpConn is what libp2p wants of a connection of TCP.
type tcpConn interface {
	manet.Conn
	SetLinger(sec int) error
	SetKeepAlive(keepalive bool) error
	SetKeepAlivePeriod(d time.Duration) error
}

// inbound is a connection that holds a place.
type inbound struct {
	tcpConn
	ticket *door.Ticket
}

// Read implements net.Conn.
func (c *inbound) Read(p []byte) (int, error) {
	n, err := c.tcpConn.Read(p)
	if n > 0 {
		c.ticket.Read()
	}
	return n, err
}

// Close implements net.Conn.
func (c *inbound) Close() error {
	c.ticket.Leave()
	return c.tcpConn.Close()
}

// admit notes that a handshake has shown the other side to be a member.
func admit(conn net.Conn) error {
	if c, ok := conn.(*inbound); ok && !c.ticket.Prove() {
		return fmt.Errorf("connection of %s: %w", c.RemoteAddr(), net.ErrClosed)
	}
	return nil
}

// list notes which addresses bootstrap names.
func (d *Discovery) list(addrs []netip.AddrPort) {
	now := d.cfg.Now()
	next := make(map[netip.Addr]time.Time, len(addrs))
	for _, a := range addrs[:min(len(addrs), maxBootstrap)] {
		if a.IsValid() {
			next[a.Addr().Unmap().WithZone("")] = now
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if last := d.listed.Load(); last != nil {
		for a, at := range *last {
			if _, ok := next[a]; !ok && now.Sub(at) < listedFor && len(next) < 2*maxBootstrap {
				next[a] = at
			}
		}
	}
	d.listed.Store(&next)
}

// Listed tells whether bootstrap named an address, of late. That is no proof of who speaks from there.
func (d *Discovery) Listed(a netip.Addr) bool {
	listed := d.listed.Load()
	if listed == nil {
		return false
	}
	_, ok := (*listed)[a]
	return ok
}

// relist asks bootstrap again while strangers push each other out, so that none of them is a member in truth.
func (d *Discovery) relist(ctx context.Context) {
	say := rate.Sometimes{Interval: time.Minute}
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.pressed:
		}
		say.Do(func() {
			d.log.Info("there are more strangers than places for them; listed members have places of their own")
		})
		lookup, done := context.WithTimeout(ctx, roundTimeout/2)
		addrs, err := d.cfg.Bootstrap.Peers(lookup)
		done()
		if err == nil {
			d.list(addrs)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(relistEvery):
		}
	}
}

// press wakes relist.
func (d *Discovery) press() {
	select {
	case d.pressed <- struct{}{}:
	default:
	}
}

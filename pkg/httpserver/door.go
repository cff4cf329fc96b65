package httpserver

import (
	"net"
	"net/http"
	"sync"

	"github.com/kioo-dev/kioo/pkg/bound"
)

// door keeps the number of connections in bounds: of those who have proven who they are, and of strangers apart, so
// that none of the first makes room for any of the second. It does what two bound.Sets decide.
type door struct {
	secured bool

	mu        sync.Mutex
	proven    *bound.Set[*conn]
	strangers *bound.Set[*conn]
	within    map[*conn]*bound.Set[*conn] // Of open connections. What was closed for others is in it no more.
}

func newDoor(cfg *Config) *door {
	stalled := (*conn).stalled
	return &door{
		secured: cfg.Secure != nil,
		proven:  bound.New(bound.Config[*conn]{Max: cfg.MaxConnections, Stalled: stalled}),
		strangers: bound.New(bound.Config[*conn]{
			Max: cfg.MaxStrangers, PerSource: (cfg.MaxStrangers + 1) / 2, Stalled: stalled,
		}),
		within: map[*conn]*bound.Set[*conn]{},
	}
}

// changed is http.Server's ConnState hook.
func (d *door) changed(nc net.Conn, state http.ConnState) {
	c := connOf(nc)
	if c == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	set := d.within[c]
	switch {
	case state == http.StateNew:
		d.enter(c, d.first(c))
	case set == nil:
	case state == http.StateActive:
		set.Busy(c)
	case state == http.StateIdle:
		set.Quiet(c)
	default:
		set.Close(c)
		delete(d.within, c)
	}
}

// first gives where a new connection counts. Whoever comes over loopback or a socket of this machine has shown that he
// is on it.
func (d *door) first(c *conn) *bound.Set[*conn] {
	if d.secured || c.source.Loopback() || c.source == (bound.Source{}) {
		return d.proven
	}
	return d.strangers
}

// enter counts a connection, and closes the one that must go for it. It gives nil if that is the same.
func (d *door) enter(c *conn, set *bound.Set[*conn]) *bound.Set[*conn] {
	d.within[c] = set
	gone, full := set.Open(c, c.source)
	if full {
		delete(d.within, gone)
		if gone.stalled() > 0 {
			gone.discard()
		}
		_ = gone.Conn.Close() // Below TLS, whose goodbye would wait for a client that does not read.
		if gone == c {
			return nil
		}
	}
	return set
}

// doubt counts an active connection as one that serves nobody, so that it goes before a new one does, or no longer.
func (d *door) doubt(c *conn, doubtful bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch set := d.within[c]; {
	case set == nil:
	case doubtful:
		set.Quiet(c)
	default:
		set.Busy(c)
	}
}

// Waits says that a request waits for others that its client has sent before, until the function is called that it
// gives: meanwhile its connection goes before a new one does.
func Waits(req *http.Request) (over func()) {
	c := connOfRequest(req)
	if c == nil {
		return func() {}
	}
	c.door.doubt(c, true)
	return func() { c.door.doubt(c, false) }
}

// Package door admits connections to a port of which only some will prove to be members': whoever opens many takes
// places from himself, and strangers take none from members. Who makes room for whom is decided in package bound.
//
// A connection that has proven nothing shares places with others like it, by source. Addresses that are listed as
// members' have places of their own, which nobody else can take: an address is no proof, so that a stranger there takes
// them from that address alone. Who has proven to be a member is counted by itself. What a proof is, and how long it
// may take, is for the listener's owner.
package door

import (
	"cmp"
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/kioo-dev/kioo/pkg/bound"
)

// standing is what a connection is counted as.
type standing uint8

const (
	stranger standing = iota
	listed
	member
	standings
)

// String gives the label of metrics.
func (s standing) String() string { return [standings]string{"stranger", "listed", "member"}[s] }

// Share says how many connections are kept.
type Share struct {
	// Max is how many there are in all; 0 is no bound.
	Max int
	// PerSource is how many of them one source may have; 0 is no bound.
	PerSource int
}

// Config says what a Door keeps.
type Config struct {
	// Strangers is for connections that have proven nothing, from addresses that nobody lists. A source is an IPv4
	// address, or an IPv6 network of 64 bits, of which anybody has all addresses.
	Strangers Share
	// Listed is for connections that have proven nothing, from addresses that are listed. Each of these is a source.
	Listed Share
	// Members is for those that have proven to be a member's. A source is an address.
	Members Share
	// Lists tells whether an address is one of a member. It must not wait. Nil lists none.
	Lists func(netip.Addr) bool
	// Pressed, if set, is called whenever a stranger's connection had to go for another one. It must not wait.
	Pressed func()
}

// Door counts the connections of one listener or of several, and closes those that are too many. It is safe for
// concurrent use.
type Door struct {
	cfg       Config
	displaced [standings]atomic.Uint64

	mu   sync.Mutex
	sets [standings]*bound.Set[*Ticket]
}

// New makes a door that counts nobody yet.
func New(cfg Config) *Door {
	d := &Door{cfg: cfg}
	for s, share := range [standings]Share{stranger: cfg.Strangers, listed: cfg.Listed, member: cfg.Members} {
		d.sets[s] = bound.New(bound.Config[*Ticket]{Max: cmp.Or(share.Max, math.MaxInt), PerSource: share.PerSource})
	}
	return d
}

// Ticket is one connection's place. It is safe for concurrent use.
type Ticket struct {
	door   *Door
	conn   io.Closer
	addr   netip.Addr
	proven atomic.Bool

	// Guarded by door.mu.
	counted standing
	gone    bool
}

// Admit gives a new connection its place. The connection is closed as soon as another one has more right to that place.
func (d *Door) Admit(conn io.Closer, from net.Addr) *Ticket {
	t := &Ticket{door: d, conn: conn, addr: address(from)}
	source := bound.Network(t.addr)
	if d.cfg.Lists != nil && d.cfg.Lists(t.addr) {
		t.counted, source = listed, bound.Address(t.addr)
	}
	d.mu.Lock()
	displaced := d.place(t, t.counted, source)
	d.mu.Unlock()
	d.close(displaced)
	return t
}

// place counts a connection, and gives the one that must go for it, if any. Called with mu held.
func (d *Door) place(t *Ticket, s standing, source bound.Source) *Ticket {
	t.counted = s
	displaced, full := d.sets[s].Open(t, source)
	if !full {
		return nil
	}
	displaced.gone = true
	d.displaced[s].Add(1)
	return displaced
}

// Prove says that the connection is a member's. It reports whether there still is a place for it.
func (t *Ticket) Prove() bool {
	d := t.door
	d.mu.Lock()
	if t.gone {
		d.mu.Unlock()
		return false
	}
	d.sets[t.counted].Close(t)
	displaced := d.place(t, member, bound.Address(t.addr))
	d.mu.Unlock()
	t.proven.Store(true)
	d.close(displaced)
	return displaced != t
}

// Read says that something came. It counts only until the connection is proven.
func (t *Ticket) Read() {
	if t.proven.Load() {
		return
	}
	d := t.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if !t.gone && t.counted != member {
		d.sets[t.counted].Busy(t) // So that it is the last one of those that are quiet.
		d.sets[t.counted].Quiet(t)
	}
}

// Leave gives the place back. It may be called again.
func (t *Ticket) Leave() {
	d := t.door
	d.mu.Lock()
	defer d.mu.Unlock()
	t.gone = true
	d.sets[t.counted].Close(t)
}

// close ends what place gave. What a ticket was counted as does not change any more once it is gone.
func (d *Door) close(t *Ticket) {
	if t == nil {
		return
	}
	_ = t.conn.Close() // However it ends, it is out.
	if t.counted == stranger && d.cfg.Pressed != nil {
		d.cfg.Pressed()
	}
}

func (d *Door) len(s standing) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sets[s].Len()
}

// address reads where a connection comes from. What is none of TCP's shares one place: the zero address.
func address(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

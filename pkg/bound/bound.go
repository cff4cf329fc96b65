// Package bound decides which connections there are at once, and which one makes room for another, so that no source
// keeps others out: whoever has most loses first, and of his the one that serves nobody.
//
// It owns that decision alone. It closes nothing and knows no clock: its callers tell it what happened, and do what it
// answers.
package bound

import (
	"cmp"
	"container/heap"
	"container/list"
	"net"
	"net/netip"
)

// Source is where a connection comes from, as far as who pays for it can be told: an IPv4 address, or the /64 of IPv6
// that one host can have to itself. All of loopback is one source, because any process there can use all its addresses.
type Source struct{ prefix netip.Prefix }

// SourceOf gives the source of an address.
func SourceOf(addr netip.Addr) Source {
	addr = addr.Unmap().WithZone("")
	bits := 32
	switch {
	case !addr.IsValid():
		return Source{}
	case addr.IsLoopback():
		addr, bits = netip.IPv6Loopback(), 128
	case addr.Is6():
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return Source{}
	}
	return Source{prefix}
}

// SourceAt gives the source of a connection's far end. What is no address of IP is one source.
func SourceAt(addr net.Addr) Source {
	if addr == nil {
		return Source{}
	}
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return Source{}
	}
	return SourceOf(at.Addr())
}

// Loopback tells whether a source is this machine, by its loopback.
func (s Source) Loopback() bool { return s.prefix.IsValid() && s.prefix.Addr().IsLoopback() }

func (s Source) String() string { return s.prefix.String() }

// Config is what a Set needs.
type Config[K comparable] struct {
	// Max is how many connections there are at once.
	Max int
	// PerSource is how many of them one source can have, even while there is room. 0 is no such bound.
	PerSource int
	// Stalled tells of a busy connection how far its client is behind with reading; 0 if that is nothing to speak of. It
	// is asked only when nobody is quiet who could make room. Nil: no client ever is.
	Stalled func(k K) (behind int64)
}

// Set is the connections of one bound. It is not safe for concurrent use.
type Set[K comparable] struct {
	cfg     Config[K]
	members map[K]*member[K]
	groups  map[Source]*group[K]
	order   order[K] // Of the groups: the first loses first.
	events  uint64
}

// member is one connection.
type member[K comparable] struct {
	key   K
	group *group[K]
	quiet bool
	since uint64 // When it became what it is, in events.
	place *list.Element
}

// group is one source's connections.
type group[K comparable] struct {
	source      Source
	quiet, busy *list.List // Of *member, the longest so first.
	index       int        // In the order.
}

func (g *group[K]) size() int { return g.quiet.Len() + g.busy.Len() }

// New makes an empty set.
func New[K comparable](cfg Config[K]) *Set[K] {
	return &Set[K]{cfg: cfg, members: map[K]*member[K]{}, groups: map[Source]*group[K]{}}
}

// Len is how many connections there are.
func (s *Set[K]) Len() int { return len(s.members) }

// Open adds a connection, which serves nobody yet, and gives the one that must be closed for it, if any: it may be the
// new one itself. The set has forgotten it already.
func (s *Set[K]) Open(k K, source Source) (victim K, ok bool) {
	g := s.groups[source]
	if g == nil {
		g = &group[K]{source: source, quiet: list.New(), busy: list.New()}
		s.groups[source] = g
		heap.Push(&s.order, g)
	}
	m := &member[K]{key: k, group: g}
	s.members[k] = m
	s.place(m, true)
	var out *member[K]
	switch {
	case s.cfg.PerSource > 0 && g.size() > s.cfg.PerSource:
		out = s.among(m, g)
	case len(s.members) > s.cfg.Max:
		out = s.victim(m)
	default:
		return victim, false
	}
	s.Close(out.key)
	return out.key, true
}

// Busy says that a connection serves somebody now. Of one that the set does not have, nothing is kept.
func (s *Set[K]) Busy(k K) { s.turn(k, false) }

// Quiet says that a connection serves nobody now, or nobody who counts. One that is quiet stays in its place.
func (s *Set[K]) Quiet(k K) { s.turn(k, true) }

// Close forgets a connection.
func (s *Set[K]) Close(k K) {
	m := s.members[k]
	if m == nil {
		return
	}
	delete(s.members, k)
	s.lift(m)
	if m.group.size() > 0 {
		heap.Fix(&s.order, m.group.index)
		return
	}
	heap.Remove(&s.order, m.group.index)
	delete(s.groups, m.group.source)
}

func (s *Set[K]) turn(k K, quiet bool) {
	if m := s.members[k]; m != nil && m.quiet != quiet {
		s.lift(m)
		s.place(m, quiet)
	}
}

func (s *Set[K]) place(m *member[K], quiet bool) {
	s.events++
	m.quiet, m.since = quiet, s.events
	m.place = m.lane().PushBack(m)
	heap.Fix(&s.order, m.group.index)
}

func (s *Set[K]) lift(m *member[K]) { m.lane().Remove(m.place) }

func (m *member[K]) lane() *list.List {
	if m.quiet {
		return m.group.quiet
	}
	return m.group.busy
}

// among finds who makes room for a new connection within its own source.
func (s *Set[K]) among(m *member[K], g *group[K]) *member[K] {
	if first := front[K](g.quiet); first != m {
		return first
	}
	if stalled := s.stalled([]*group[K]{g}, 0); stalled != nil {
		return stalled
	}
	return m
}

// victim finds who makes room for a new connection among all. Whose source has fewer than others loses nothing to
// these: where a source with most has nobody quiet, one that is busy goes for a source that has fewer.
func (s *Set[K]) victim(m *member[K]) *member[K] {
	top := s.order[0]
	if first := front[K](top.quiet); first != nil && first != m {
		return first
	}
	if stalled := s.stalled(s.order, m.group.size()); stalled != nil {
		return stalled
	}
	if top.size() > m.group.size() {
		return front[K](top.busy)
	}
	return m
}

// stalled finds the busy connection whose client is behind the most, in groups that have no fewer than least.
func (s *Set[K]) stalled(groups []*group[K], least int) (most *member[K]) {
	if s.cfg.Stalled == nil {
		return nil
	}
	var worst int64
	for _, g := range groups {
		if g.size() < least {
			continue
		}
		for e := g.busy.Front(); e != nil; e = e.Next() {
			m := e.Value.(*member[K])
			behind := s.cfg.Stalled(m.key)
			if behind > worst || behind == worst && behind > 0 && m.since < most.since {
				most, worst = m, behind
			}
		}
	}
	return most
}

func front[K comparable](l *list.List) *member[K] {
	if e := l.Front(); e != nil {
		return e.Value.(*member[K])
	}
	return nil
}

// order is a heap of groups: most connections first, and among equals the one that has been quiet for longest.
type order[K comparable] []*group[K]

func (o order[K]) Len() int { return len(o) }

func (o order[K]) Less(i, j int) bool {
	a, b := o[i], o[j]
	return cmp.Or(-cmp.Compare(a.size(), b.size()), cmp.Compare(a.quietSince(), b.quietSince())) < 0
}

// quietSince is when the group's longest quiet connection became so. Without one it comes after all that have one.
func (g *group[K]) quietSince() uint64 {
	if first := front[K](g.quiet); first != nil {
		return first.since
	}
	return ^uint64(0)
}

func (o order[K]) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].index, o[j].index = i, j
}

// Push implements heap.Interface.
func (o *order[K]) Push(x any) {
	g := x.(*group[K])
	g.index = len(*o)
	*o = append(*o, g)
}

// Pop implements heap.Interface.
func (o *order[K]) Pop() any {
	last := (*o)[len(*o)-1]
	*o = (*o)[:len(*o)-1]
	return last
}

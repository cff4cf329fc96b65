package swarm

import (
	"slices"
	"time"
)

// lease is the pieces [first, last), which its owner reads in order.
type lease struct {
	owner       *member
	from        ID // Empty is upstream.
	first, last int
	stall       bool // Given out of turn to a stalled member: others may have the pieces.
}

const (
	// leaseDepth is how many leases one member has: one that it reads, and the next, so that it needs not wait for an
	// answer between the two.
	leaseDepth = 2
	// segments is how many leases a blob makes for each member that fetches at once: few, so that upstream sees long reads;
	// not too few, so that members of different speed end together and the blob arrives about in order.
	segments = 8
	// perHolder is how many leases there are at one holder at once.
	perHolder   = 8
	stallLeases = 3
	// worthStealing is how long an owner would still need for what it has before some of it is given to another.
	worthStealing = 2 * time.Second
	// unheard is how long ago a member was given leases, without a word of it since, when nobody knows any more how much
	// it has of them: all, if upstream is fast. Until it says so, to take some from it would be to fetch them twice.
	unheard = 50 * time.Millisecond
)

// cover counts a lease in or out.
func (b *blob) cover(l *lease, by int) {
	for p := l.first; p < min(l.last, len(b.leased)); p++ {
		b.leased[p] = uint16(int(b.leased[p]) + by)
	}
}

func (b *blob) lend(now time.Time, m *member, l *lease) {
	l.owner = m
	if len(m.leases) == 0 {
		m.lent, m.progress, m.measured, m.rate = now, now, now, 0
	}
	m.leases = append(m.leases, l)
	b.cover(l, 1)
	if l.from != "" {
		b.source(l.from).used++
	}
}

// ended is a lease that is not in its owner's list any more.
func (b *blob) ended(l *lease) {
	b.cover(l, -1)
	if l.from != "" {
		b.source(l.from).used--
	}
}

func (b *blob) dropLeases(m *member) { b.dropWhere(m, func(*lease) bool { return true }) }
func (b *blob) dropUpstream(m *member) {
	b.dropWhere(m, func(l *lease) bool { return l.from == "" })
}

func (b *blob) dropWhere(m *member, drop func(*lease) bool) {
	n := len(m.leases)
	m.leases = slices.DeleteFunc(m.leases, func(l *lease) bool {
		if drop(l) {
			b.ended(l)
			return true
		}
		return false
	})
	if len(m.leases) < n {
		b.change()
	}
}

// adopt takes over what a member reads that another tracker has leased to it, as far as nobody else has it. It can't
// where the holder is not known here, because who is named in an answer has to be reached.
func (b *blob) adopt(now time.Time, m *member, reading []Lease, known []Neighbour) {
	for _, r := range reading[:min(len(reading), leaseDepth)] {
		if m.complete || len(m.leases) >= leaseDepth {
			return
		}
		holder := b.members[r.From]
		if r.From != "" && (holder == nil || !holder.complete) &&
			!slices.ContainsFunc(known, func(n Neighbour) bool { return n.Member == r.From }) {
			continue
		}
		first, last := 0, len(b.copies)
		switch whole := b.size < 0 || b.sequential && r.From == ""; {
		case r.From == "" && (!b.mayGoUpstream(now, m) || b.upstreamActive() >= 2*b.width), whole && !b.idle():
			continue
		case !whole:
			first, last = b.layout.At(r.Start), b.layout.Pieces()
			if r.End >= 0 {
				last = b.layout.At(r.End-1) + 1
			}
		}
		first, _ = b.free(first)
		end := first
		for end < last && b.leased[end] == 0 {
			end++
		}
		if first < end {
			b.lend(now, m, &lease{from: r.From, first: first, last: end})
		}
	}
}

// done tells whether nothing of a lease is left to fetch.
func (b *blob) done(l *lease) bool {
	for p := l.first; p < l.last; p++ {
		if !l.owner.have.Has(p) && (l.stall || b.copies[p] == 0) {
			return false
		}
	}
	return true
}

// upstreamActive counts the members that fetch from upstream.
func (b *blob) upstreamActive() int {
	n := 0
	for _, m := range b.order {
		if slices.ContainsFunc(m.leases, func(l *lease) bool { return l.from == "" }) {
			n++
		}
	}
	return n
}

// free gives the first run [first, last) of pieces, from a piece on, that nobody has and nobody is fetching.
func (b *blob) free(from int) (first, last int) {
	for first = from; first < len(b.copies) && (b.copies[first] > 0 || b.leased[first] > 0); first++ {
	}
	for last = first; last < len(b.copies) && b.copies[last] == 0 && b.leased[last] == 0; last++ {
	}
	return first, last
}

// mayGoUpstream tells whether a member can be sent to upstream now.
func (b *blob) mayGoUpstream(now time.Time, m *member) bool {
	return m.upstream < Refused && !m.retry.After(now) && b.refusals < b.cfg.UpstreamLeases
}

// grant gives a member leases, if there is something to fetch and it is its turn.
func (b *blob) grant(now time.Time, m *member, holders []Neighbour) {
	loaders := len(b.order) - len(b.complete)
	if m.complete || len(m.leases) >= leaseDepth || m.lapsed.After(now) && !b.idle() {
		return
	}
	if len(holders) > 0 && loaders <= len(holders) && m.have.Count() == 0 && len(m.leases) == 0 {
		for _, h := range holders { // Enough for each to have one to itself: a long sequential read, no exchange.
			if b.use(h.Member) == 0 {
				b.lend(now, m, &lease{from: h.Member, last: len(b.copies)})
				return
			}
		}
	}
	streams := b.streams(m, loaders, holders)
	if streams == 0 || len(holders) == 0 && !b.mayGoUpstream(now, m) {
		return
	}
	if b.sequential && len(holders) == 0 {
		if len(m.leases) == 0 {
			b.lend(now, m, &lease{last: len(b.copies)})
		}
		return
	}
	if first, _ := b.free(0); first == len(b.copies) && len(m.leases) == 0 {
		b.steal(now, m)
	}
	length := max(1, len(b.copies)/(segments*streams))
	for len(m.leases) < leaseDepth {
		first, last := b.free(0)
		if first == last {
			return
		}
		if loaders == 1 && b.idle() {
			last = b.lastFree()
		} else {
			last = min(last, (first/length+1)*length)
		}
		b.lend(now, m, &lease{from: b.choose(holders), first: first, last: last})
	}
}

// streams is among how many members the fetching is divided; 0 if this one is not to be among them now.
func (b *blob) streams(m *member, loaders int, holders []Neighbour) int {
	if len(holders) > 0 {
		for _, h := range holders {
			if b.use(h.Member) < perHolder*leaseDepth {
				return min(loaders, perHolder*len(holders))
			}
		}
		return 0
	}
	width := b.width
	if b.sequential {
		width = 1
	}
	fetching := slices.ContainsFunc(m.leases, func(l *lease) bool { return l.from == "" })
	if !fetching && b.upstreamActive() >= width {
		return 0
	}
	return min(loaders, width)
}

func (b *blob) use(holder ID) int {
	if s := b.sources[holder]; s != nil {
		return s.used
	}
	return 0
}

// choose gives the least used holder, of the ones in order of preference; upstream if there is none.
func (b *blob) choose(holders []Neighbour) (from ID) {
	for _, h := range holders {
		if from == "" || b.use(h.Member) < b.use(from) {
			from = h.Member
		}
	}
	return from
}

func (b *blob) idle() bool {
	return !slices.ContainsFunc(b.leased, func(n uint16) bool { return n > 0 })
}

func (b *blob) lastFree() int {
	last := len(b.copies)
	for last > 0 && b.copies[last-1] > 0 {
		last--
	}
	return last
}

// steal frees what the member with most left to do has not begun with, so that another can help. It keeps what it may
// get before it hears of it, so that nothing is fetched twice.
func (b *blob) steal(now time.Time, thief *member) {
	var victim *member
	var longest time.Duration
	for _, m := range b.order {
		if m == thief || len(m.leases) == 0 || m.leases[0].stall || b.sequential && m.leases[0].from == "" {
			continue
		}
		if left := b.needs(now, m); left > longest {
			victim, longest = m, left
		}
	}
	if victim == nil || longest < worthStealing {
		return
	}
	left := b.left(victim)
	keep := max(1, len(b.copies)/(segments*b.width))
	if victim.rate > 0 {
		keep = max(keep, 1+int(victim.rate*(victim.again+announceSoon).Seconds())/int(b.layout.PieceSize))
	} else {
		keep = max(keep, len(b.copies)/segments)
	}
	if len(victim.leases) > 1 || left < len(b.copies)/2 {
		keep = max(keep, left/2)
	}
	for i := len(victim.leases) - 1; i >= 0 && left > keep; i-- {
		l := victim.leases[i]
		b.cover(l, -1)
		for l.last > l.first && left > keep {
			l.last--
			if !victim.have.Has(l.last) {
				left--
			}
		}
		b.cover(l, 1)
	}
	victim.leases = slices.DeleteFunc(victim.leases, func(l *lease) bool {
		if l.first == l.last {
			b.ended(l)
		}
		return l.first == l.last
	})
	b.change()
}

// left counts the pieces that a member has still to fetch.
func (b *blob) left(m *member) int {
	n := 0
	for _, l := range m.leases {
		for p := l.first; p < l.last; p++ {
			if !m.have.Has(p) {
				n++
			}
		}
	}
	return n
}

// needs is how long a member needs for what it has still to fetch; very long if that is not known yet, and the more
// the more it is.
func (b *blob) needs(now time.Time, m *member) time.Duration {
	left := float64(b.left(m)) * float64(b.layout.PieceSize)
	if m.rate <= 0 {
		if b.left(m)*2 < len(b.copies) {
			return 0 // It was given to it a moment ago, and is a share, not the whole.
		}
		if m.measured.Equal(m.lent) && now.Sub(m.lent) > unheard {
			return 0
		}
		return time.Hour + time.Duration(left)
	}
	return time.Duration(min(left/m.rate, 3600) * float64(time.Second))
}

// rescue gives a member that gets nothing a lease out of turn: of what nobody has, if there is such, else of what it
// needs.
func (b *blob) rescue(now time.Time, m *member, holders []Neighbour) {
	if !m.stalled || m.complete || len(m.leases) > 0 || len(holders) == 0 && m.upstream >= Refused {
		return
	}
	n := 0
	for _, other := range b.order {
		if slices.ContainsFunc(other.leases, func(l *lease) bool { return l.stall }) {
			n++
		}
	}
	if n >= stallLeases {
		return
	}
	if b.sequential && len(holders) == 0 {
		b.lend(now, m, &lease{last: len(b.copies), stall: true})
		return
	}
	first := slices.Index(b.copies, 0)
	if first < 0 {
		for first = 0; m.have.Has(first); first++ {
		}
	}
	length := max(1, len(b.copies)/(segments*b.cfg.UpstreamLeases))
	last := min(first+length, len(b.copies))
	if first < last {
		b.lend(now, m, &lease{from: b.choose(holders), first: first, last: last, stall: true})
	}
}

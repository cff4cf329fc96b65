package swarm

import (
	"math/bits"
	"slices"
	"time"
)

const (
	announceEvery = time.Second
	// announceSoon is for members whose part is about to change: one that has all of the blob to itself, so that it hears
	// soon of others, and one that has not met enough others.
	announceSoon = 250 * time.Millisecond
	// announceAlone is for one that has just begun and has all of the blob to itself: others may begin at any moment, and
	// what it got meanwhile need not be fetched again if it is known.
	announceAlone = 100 * time.Millisecond
	maxHolders    = 16
	// learnAll is after how long every member has announced itself to its tracker, and learnSome after how long those have
	// who have just read something: among many, they and some others know of nearly all pieces.
	learnAll  = announceEvery + announceSoon
	learnSome = announceSoon
)

// blob is what the tracker knows of one blob.
type blob struct {
	cfg  *TrackerConfig
	name string
	// clock numbers changes over all blobs, so that a blob that was forgotten and came back never repeats a version.
	clock   *uint64
	version uint64
	seen    time.Time
	swept   time.Time
	// unknown is when it last turned out that there are members that the tracker does not know, and partners how many
	// there are at least.
	unknown  time.Time
	partners int

	// size is what all members of the group believe in if the blob is cut. Of what is one piece it is what somebody said;
	// negative while nobody has.
	size    int64
	layout  Layout
	members map[ID]*member
	// order has the members too: what is chosen at random must not depend on a map's order.
	order []*member
	// copies is, for each piece, how many members have it that don't have the whole blob.
	copies []uint16
	// leased is, for each piece, how many leases cover it: more than one only where members read whole blobs from holders
	// of their own, or are stalled.
	leased []uint16
	// width is how many members may be sent upstream at once.
	width   int
	widened time.Time
	// sequential says that upstream has no ranges.
	sequential bool
	// refusals counts members that got a final no, until one gets bytes.
	refusals int
	complete []*member
	sources  map[ID]*source
}

// source is a complete holder that members were sent to.
type source struct {
	used    int       // Leases and grants at it now.
	gave    time.Time // When a lease at it last brought something.
	suspect time.Time // Until then it is sent nobody, because somebody got nothing there.
}

type member struct {
	id         ID
	zone       string
	index      int   // In order.
	size       int64 // As it says; negative if it does not know.
	have       Pieces
	complete   bool
	upstream   Upstream
	sequential bool
	stalled    bool
	waiting    bool
	joined     time.Time
	seen       time.Time

	leases   []*lease
	fetched  int64
	lent     time.Time // When it was given leases, and had none before.
	measured time.Time // When it last told of them, else lent.
	rate     float64   // Bytes per second from its leases; 0 while unknown.
	progress time.Time // When its leases last brought anything, or were granted.
	retry    time.Time // Until then it is not sent upstream, because upstream failed.
	lapsed   time.Time // Until then others go first, because its leases brought nothing.
	again    time.Duration

	grant   ID // For blobs of one piece: the holder that it was sent to.
	granted time.Time
	links   []*member
}

func newBlob(cfg *TrackerConfig, clock *uint64, name string) *blob {
	b := &blob{cfg: cfg, name: name, clock: clock, size: -1, members: make(map[ID]*member), width: cfg.UpstreamLeases,
		sources: make(map[ID]*source)}
	b.change()
	b.cut(Layout{})
	return b
}

func (b *blob) change() {
	*b.clock++
	b.version = *b.clock
}

// cut sets the layout, before there are members.
func (b *blob) cut(layout Layout) {
	b.layout = layout
	b.copies, b.leased = make([]uint16, layout.Pieces()), make([]uint16, layout.Pieces())
}

// small tells whether the blob is not cut.
func (b *blob) small() bool { return len(b.copies) == 1 }

func (b *blob) add(now time.Time, a Announce) *member {
	m := &member{id: a.Member, zone: a.Zone, index: len(b.order), joined: now, seen: now, measured: now}
	b.members[m.id] = m
	b.order = append(b.order, m)
	return m
}

func (b *blob) remove(now time.Time, m *member) {
	if m == nil {
		return
	}
	b.dropLeases(m)
	b.unlink(m)
	b.setHave(m, Pieces{})
	b.release(m)
	b.complete = slices.DeleteFunc(b.complete, func(c *member) bool { return c == m })
	last := b.order[len(b.order)-1]
	b.order[m.index], last.index = last, m.index
	b.order = b.order[:len(b.order)-1]
	delete(b.members, m.id)
	b.change()
}

// sweep takes out who is gone, and returns leases that bring nothing. It looks at everybody, so not at each call.
func (b *blob) sweep(now time.Time) {
	if now.Sub(b.swept) < b.cfg.Patience/6 {
		return
	}
	b.swept = now
	for i := len(b.order) - 1; i >= 0; i-- {
		m := b.order[i]
		if now.Sub(m.seen) > b.cfg.Expiry {
			b.remove(now, m)
			continue
		}
		if len(m.leases) > 0 && now.Sub(m.progress) > b.cfg.Patience {
			for _, l := range m.leases {
				b.suspect(now, l.from)
			}
			b.dropLeases(m)
			m.lapsed = now.Add(2 * b.cfg.Patience)
			b.change()
		}
	}
	if b.width < b.cfg.UpstreamLeases && now.Sub(b.widened) > 10*time.Second {
		b.width, b.widened = b.width+1, now
	}
	for id, s := range b.sources {
		if s.used == 0 && now.After(s.suspect) {
			delete(b.sources, id)
		}
	}
}

// suspect has nobody sent to a holder for a while, of which a member got nothing; unless another did: then it is the
// member who is slow.
func (b *blob) suspect(now time.Time, holder ID) {
	if holder == "" {
		return
	}
	if s := b.source(holder); now.Sub(s.gave) > b.cfg.Patience {
		s.suspect = now.Add(30 * time.Second)
	}
}

func (b *blob) source(id ID) *source {
	s := b.sources[id]
	if s == nil {
		s = &source{}
		b.sources[id] = s
	}
	return s
}

// release takes back what a member was granted at a holder.
func (b *blob) release(m *member) {
	if m.grant != "" {
		b.source(m.grant).used--
		m.grant = ""
		b.change()
	}
}

// count takes in how many others a member knows. That there are unknown ones holds up everybody, so it counts half of
// the time at most.
func (b *blob) count(now time.Time, partners int) {
	if partners <= len(b.order) {
		return
	}
	if now.Sub(b.unknown) > 2*learnAll {
		b.unknown, b.partners = now, 0
	}
	b.partners = max(b.partners, partners)
}

// learning tells whether this tracker has just taken over from another one, or stands in for it, so that what it takes
// for free may well be somewhere, or on its way. Once everybody has announced itself it knows, but for one, who may be
// the dead tracker. Where there are more than a member has partners, only time can tell.
func (b *blob) learning(now time.Time) bool {
	if b.partners >= degree {
		return now.Sub(b.unknown) < learnSome
	}
	return len(b.order) < b.partners && now.Sub(b.unknown) < learnAll
}

// update takes an announcement in.
func (b *blob) update(now time.Time, m *member, a Announce) {
	m.seen, m.zone, m.stalled, m.waiting = now, a.Zone, a.Stalled, a.Waiting
	m.size = a.Size
	if b.size < 0 && a.Size >= 0 {
		b.size = a.Size
		b.change()
	}
	have := a.Have.within(b.layout.Pieces())
	if a.Complete || b.size < 0 {
		have = Pieces{} // It is a holder, which counts apart; or there are no pieces before the size is known.
	}
	b.measure(now, m, have, a)
	b.setHave(m, have)
	if a.Complete != m.complete {
		b.setComplete(m, a.Complete)
	}
	b.judge(now, m, a)
	b.count(now, a.Partners)
	m.leases = slices.DeleteFunc(m.leases, func(l *lease) bool {
		done := b.size >= 0 && (m.complete || b.done(l))
		if done {
			b.ended(l)
		}
		return done
	})
}

// measure notes whether a member's leases make progress, and how fast.
func (b *blob) measure(now time.Time, m *member, have Pieces, a Announce) {
	var bytes int64
	if len(m.leases) > 0 {
		got := 0
		for _, l := range m.leases {
			for p := l.first; p < l.last; p++ {
				if have.Has(p) && !m.have.Has(p) {
					got++
				}
			}
		}
		bytes = max(a.Fetched-m.fetched, int64(got)*b.layout.PieceSize, 0)
		if bytes > 0 {
			m.progress = now
			b.refusals = 0
			for _, l := range m.leases {
				if l.from != "" {
					b.source(l.from).gave = now
				}
			}
		}
	}
	m.fetched = a.Fetched
	if took := now.Sub(m.measured); took >= announceAlone/2 {
		m.measured = now
		rate := float64(bytes) / took.Seconds()
		switch {
		case len(m.leases) == 0:
		case m.rate == 0:
			m.rate = rate
		default:
			m.rate += (rate - m.rate) / 2
		}
	}
}

func (b *blob) setComplete(m *member, complete bool) {
	m.complete = complete
	if complete {
		b.complete = append(b.complete, m)
		b.unlink(m)
		b.release(m)
		b.dropLeases(m)
	} else {
		b.complete = slices.DeleteFunc(b.complete, func(c *member) bool { return c == m })
	}
	b.change()
}

// judge takes in what a member knows of upstream.
func (b *blob) judge(now time.Time, m *member, a Announce) {
	was := m.upstream
	m.upstream, m.sequential = a.Upstream, a.Sequential
	if a.Sequential && !b.sequential {
		b.sequential = true
		for _, other := range b.order {
			if other != m {
				b.dropUpstream(other)
			}
		}
		b.dropUpstream(m)
	}
	if m.upstream == was {
		return
	}
	switch m.upstream {
	case Busy:
		b.width, b.widened = max(1, b.width/2), now
		if b.upstreamActive() > b.width {
			b.dropUpstream(m)
			m.retry = now.Add(announceEvery)
		}
	case Failing:
		b.dropUpstream(m)
		m.retry = now.Add(2 * announceEvery)
	case Refused:
		if slices.ContainsFunc(m.leases, func(l *lease) bool { return l.from == "" }) {
			b.refusals++ // It tried. Others may know that they have no credentials, which says nothing of the rest.
		}
		b.dropUpstream(m)
	case Never:
		b.dropUpstream(m)
	case Able:
	}
	b.change()
}

// setHave changes what a member has, and counts copies.
func (b *blob) setHave(m *member, have Pieces) {
	for i := range max(len(have.words), len(m.have.words)) {
		word, old := have.word(i), m.have.word(i)
		for diff := word ^ old; diff != 0; diff &= diff - 1 {
			p := i*64 + bits.TrailingZeros64(diff)
			if p >= len(b.copies) {
				break // Said before the size was known.
			}
			if word&(diff&-diff) != 0 {
				b.copies[p]++
			} else if b.copies[p]--; b.copies[p] == 0 {
				b.change()
			}
		}
	}
	m.have = have
}

func ids(of []Neighbour) []ID {
	out := make([]ID, len(of))
	for i, n := range of {
		out[i] = n.Member
	}
	return out
}

package eviction

import (
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// model is a Policy that is too simple to be wrong: lists that are gone through from end to end, and sums that are made
// anew each time.
type model struct {
	bounds   Bounds
	held     [segments][]*modelBlob // The first one to go in front.
	gone     []*modelBlob           // No longer held, but read.
	arrivals []*modelArrival
	ghosts   []*modelBlob // The first one to be forgotten in front.
}

type modelBlob struct {
	digest  digest.Digest
	owner   content.Owner
	size    int64
	uses    int
	pins    int
	counted time.Time
}

type modelArrival struct {
	owner          content.Owner
	size, reserved int64
}

func (m *model) find(dgst digest.Digest) (*modelBlob, Segment, int) {
	for s, queue := range m.held {
		if i := slices.IndexFunc(queue, func(b *modelBlob) bool { return b.digest == dgst }); i >= 0 {
			return queue[i], Segment(s), i
		}
	}
	return nil, 0, 0
}

// totals are what some or all owners have.
type totals struct {
	bytes, pinned, reserved, announced int64
	small                              int64
	blobs, pinnedBlobs, arriving       int
}

// sum adds up what the owners have that are wanted.
func (m *model) sum(wanted func(content.Owner) bool) (t totals) {
	for s, queue := range m.held {
		for _, b := range queue {
			if !wanted(b.owner) {
				continue
			}
			t.bytes += b.size
			t.blobs++
			if Segment(s) == Small {
				t.small += b.size
			}
			if b.pins > 0 {
				t.pinned += b.size
				t.pinnedBlobs++
			}
		}
	}
	for _, b := range m.gone {
		if wanted(b.owner) {
			t.bytes += b.size
			t.pinned += b.size
		}
	}
	for _, a := range m.arrivals {
		if wanted(a.owner) {
			t.reserved += a.reserved
			t.announced += a.size
			t.arriving++
		}
	}
	t.small += t.reserved
	return t
}

func (m *model) all() totals { return m.sum(func(content.Owner) bool { return true }) }

func (m *model) of(owner content.Owner) totals {
	return m.sum(func(o content.Owner) bool { return o == owner })
}

// owners gives those who have something.
func (m *model) owners() (all []content.Owner) {
	for _, o := range owners {
		if t := m.of(o); t.bytes+t.reserved > 0 {
			all = append(all, o)
		}
	}
	return all
}

// sure goes up from nothing until half of the room is given out.
func (m *model) sure() int64 {
	all := m.all()
	room := min(m.bounds.Bytes, all.bytes+all.reserved) / 2
	level := int64(0)
	for {
		given := int64(0)
		for _, o := range m.owners() {
			t := m.of(o)
			given += min(t.bytes+t.reserved, level+1)
		}
		if given > room || level >= m.bounds.Bytes {
			return level
		}
		level++
	}
}

func (m *model) fits(owner content.Owner, size int64) bool {
	all, own := m.all(), m.of(owner)
	coming, others := own.announced+size, all.reserved-own.reserved
	left := m.bounds.Bytes - others
	if size > m.bounds.Bytes || coming > left-left/4 || coming > left-all.pinned {
		return false
	}
	if all.arriving+all.pinnedBlobs >= m.bounds.Blobs {
		return false
	}
	if own.pinned+coming <= m.bounds.Bytes-(all.bytes+all.reserved-own.bytes-own.reserved) {
		return true
	}
	sure, n := m.sure(), own.pinned+coming
	left = m.bounds.Bytes - n
	for _, o := range m.owners() {
		if t := m.of(o); o != owner {
			left -= max(min(t.bytes+t.reserved, sure), min(t.small, n))
		}
	}
	return left >= 0
}

// evict evicts while it has to, and gives what is gone.
func (m *model) evict(more func() bool, pays func(content.Owner, Segment) bool) (victims []digest.Digest, ok bool) {
	for more() {
		first := Main
		if m.all().small > m.bounds.Bytes/10 {
			first = Small
		}
		b, s := m.choose(first, pays)
		if b == nil {
			b, s = m.choose(1-first, pays)
		}
		if b == nil {
			return victims, false
		}
		i := slices.Index(m.held[s], b)
		m.held[s] = slices.Delete(m.held[s], i, i+1)
		switch {
		case b.uses > 0 && s == Small:
			b.uses = 0
			m.held[Main] = append(m.held[Main], b)
		case b.uses > 0:
			b.uses--
			m.held[Main] = append(m.held[Main], b)
		default:
			victims = append(victims, b.digest)
			if s == Small {
				m.remember(b)
			}
		}
	}
	return victims, true
}

func (m *model) choose(s Segment, pays func(content.Owner, Segment) bool) (*modelBlob, Segment) {
	may := func(b *modelBlob) bool { return b.pins == 0 && pays(b.owner, s) }
	if s == Main {
		if i := slices.IndexFunc(m.held[s], may); i >= 0 {
			return m.held[s][i], s
		}
		return nil, s
	}
	var found *modelBlob
	for _, b := range m.held[s] {
		if !may(b) {
			continue
		}
		if found == nil || m.of(b.owner).small > m.of(found.owner).small ||
			(m.of(b.owner).small == m.of(found.owner).small && b.owner < found.owner) {
			found = b
		}
	}
	return found, s
}

func (m *model) remember(b *modelBlob) {
	m.ghosts = slices.DeleteFunc(m.ghosts, func(g *modelBlob) bool { return g.digest == b.digest })
	m.ghosts = append(m.ghosts, b)
	of := func(owner content.Owner) (n int, bytes int64) {
		for _, g := range m.ghosts {
			if g.owner == owner {
				n++
				bytes += g.size
			}
		}
		return n, bytes
	}
	drop := func(owner content.Owner) {
		i := slices.IndexFunc(m.ghosts, func(g *modelBlob) bool { return g.owner == owner })
		m.ghosts = slices.Delete(m.ghosts, i, i+1)
	}
	for _, bytes := of(b.owner); bytes > m.bounds.Bytes; _, bytes = of(b.owner) {
		drop(b.owner)
	}
	for len(m.ghosts) > m.bounds.Blobs {
		worst := owners[0]
		for _, o := range owners {
			n, _ := of(o)
			if most, _ := of(worst); n > most || (n == most && o < worst) {
				worst = o
			}
		}
		drop(worst)
	}
}

func (m *model) begin(owner content.Owner, size int64) ([]digest.Digest, *modelArrival) {
	if !m.fits(owner, size) {
		return nil, nil
	}
	victims, ok := m.evict(func() bool {
		all := m.all()
		return all.blobs+all.arriving >= m.bounds.Blobs
	}, func(o content.Owner, _ Segment) bool {
		theirs, own := m.of(o), m.of(owner)
		return o == owner || theirs.blobs+theirs.arriving > own.blobs+own.arriving+1
	})
	if !ok {
		return victims, nil
	}
	a := &modelArrival{owner: owner, size: size}
	m.arrivals = append(m.arrivals, a)
	return victims, a
}

func (m *model) payers(owner content.Owner, n int64) func(content.Owner, Segment) bool {
	return func(o content.Owner, s Segment) bool {
		theirs := m.of(o)
		return o == owner || (theirs.bytes+theirs.reserved > m.sure() && (s == Main || theirs.small > m.of(owner).small+n))
	}
}

func (m *model) grow(a *modelArrival, n int64) ([]digest.Digest, bool) {
	all, own := m.all(), m.of(a.owner)
	left := m.bounds.Bytes - (all.reserved - own.reserved)
	if n > a.size-a.reserved || n > m.bounds.Bytes-all.reserved-all.pinned || own.reserved+n > left-left/4 {
		return nil, false
	}
	victims, ok := m.evict(func() bool {
		all := m.all()
		return n > m.bounds.Bytes-all.bytes-all.reserved
	}, m.payers(a.owner, n))
	if ok {
		a.reserved += n
	}
	return victims, ok
}

func (m *model) insert(dgst digest.Digest, owner content.Owner, size int64, now time.Time) {
	s := Small
	if i := slices.IndexFunc(m.ghosts, func(g *modelBlob) bool { return g.digest == dgst }); i >= 0 {
		m.ghosts = slices.Delete(m.ghosts, i, i+1)
		s = Main
	}
	m.held[s] = append(m.held[s], &modelBlob{digest: dgst, owner: owner, size: size, counted: now})
}

func (m *model) remove(dgst digest.Digest) {
	b, s, i := m.find(dgst)
	m.held[s] = slices.Delete(m.held[s], i, i+1)
	if b.pins > 0 {
		m.gone = append(m.gone, b)
	}
}

package eviction

import (
	"container/list"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// Arrival is a blob on its way that will be kept: it has room for what has come of it.
type Arrival struct {
	account  *account
	size     int64
	reserved int64
}

// Reserved gives how many bytes the blob has room for.
func (a *Arrival) Reserved() int64 { return a.reserved }

// Fits tells whether a blob of that many bytes can be kept, as things stand: if everything were evicted that the owner
// may have evicted. What the owner has announced counts, and of others only what has come: so nobody is kept out by
// mere words, and nothing is evicted for them either.
func (p *Policy) Fits(owner content.Owner, size int64) bool {
	own := p.accounts[owner]
	if own == nil {
		own = &account{owner: owner}
	}
	if size > p.bounds.Bytes || own.announced > p.bounds.Bytes-size {
		return false
	}
	coming := own.announced + size
	others := p.sum.reserved - own.reserved
	switch {
	case coming > most(p.bounds.Bytes, others):
		return false
	case coming > p.bounds.Bytes-others-p.sum.pinnedBytes:
		return false
	case p.sum.arriving+p.sum.pinnedBlobs >= p.bounds.Blobs:
		return false
	}
	kept := own.pinnedBytes + coming
	return kept <= p.bounds.Bytes-(p.sum.total()-own.total()) || kept <= p.attainable(own)
}

// Crowded tells whether Begin may have to evict a blob, for there are as many as there may be.
func (p *Policy) Crowded() bool { return p.sum.blobs+p.sum.arriving >= p.bounds.Blobs }

// Outstanding gives how many bytes are still to come of an owner's blobs on their way, by what was said of them.
func (p *Policy) Outstanding(owner content.Owner) int64 {
	if a := p.accounts[owner]; a != nil {
		return a.announced - a.reserved
	}
	return 0
}

// Evictable gives the bytes of what nobody reads.
func (p *Policy) Evictable() int64 { return p.sum.bytes - p.sum.pinnedBytes }

// Begin has a blob come on its way, without any room but a place among the blobs. It removes and gives those that have
// to go for that; ok tells whether there is a place. It ends with End.
func (p *Policy) Begin(owner content.Owner, size int64) (a *Arrival, victims []*Blob, ok bool) {
	if !p.Fits(owner, size) {
		return nil, nil, false
	}
	own := p.account(owner)
	victims, ok = p.evictWhile(p.Crowded, p.forPlace(own))
	if !ok {
		p.tidy(own)
		return nil, victims, false
	}
	p.accounts[owner] = own // Its last blob may just have gone.
	a = &Arrival{account: own, size: size}
	p.both(own, func(a *account) { a.arriving++; a.announced += size })
	return a, victims, true
}

// Room tells whether Grow would evict nothing.
func (p *Policy) Room(a *Arrival, n int64) bool {
	return n <= a.size-a.reserved && n <= p.bounds.Bytes-p.sum.total() && p.may(a, n)
}

// may tells whether so much more of what is on its way may be one owner's.
func (p *Policy) may(a *Arrival, n int64) bool {
	own := a.account.reserved
	return n <= most(p.bounds.Bytes, p.sum.reserved-own)-own
}

// Grow makes room for more bytes of a blob on its way. It removes and gives those that have to go for it, also if it
// is not enough; ok tells whether the room is there.
func (p *Policy) Grow(a *Arrival, n int64) (victims []*Blob, ok bool) {
	if n > a.size-a.reserved || n > p.bounds.Bytes-p.sum.reserved-p.sum.pinnedBytes || !p.may(a, n) {
		return nil, false
	}
	own := a.account
	victims, ok = p.evictWhile(func() bool { return n > p.bounds.Bytes-p.sum.total() }, p.forBytes(own, n))
	if !ok {
		return victims, false
	}
	a.reserved += n
	p.both(own, func(a *account) { a.reserved += n })
	return victims, true
}

// Free removes and gives blobs of at least so many bytes for what an owner brings, as Grow would: the disk has less
// room than the bounds. It gives none if those that may go have less.
func (p *Policy) Free(owner content.Owner, n int64) []*Blob {
	if n > p.sum.bytes-p.sum.pinnedBytes {
		return nil
	}
	own := p.account(owner)
	defer p.tidy(own)
	target := p.sum.bytes - n
	victims, _ := p.evictWhile(func() bool { return p.sum.bytes > target }, p.forBytes(own, n))
	return victims
}

// End takes back what a blob on its way was promised. Who keeps it inserts it then.
func (p *Policy) End(a *Arrival) {
	p.both(a.account, func(sum *account) {
		sum.reserved -= a.reserved
		sum.announced -= a.size
		sum.arriving--
	})
	a.reserved = 0
	p.tidy(a.account)
}

// Trim removes and gives what is above the bounds: they may have been lowered since the last start.
func (p *Policy) Trim() []*Blob {
	victims, _ := p.evictWhile(func() bool {
		return p.sum.bytes > p.bounds.Bytes || p.sum.blobs > p.bounds.Blobs
	}, func() payer { return func(*account, Segment) bool { return true } })
	return victims
}

// payer tells who may have to let go of a blob of a segment.
type payer func(*account, Segment) bool

// forBytes gives who pays for bytes that an owner brings: himself, and who has more than he is sure of. Of what was
// asked for once, moreover, nobody takes any from one that has less of it than himself.
func (p *Policy) forBytes(own *account, n int64) func() payer {
	return func() payer {
		sure, most := p.sure(), own.in(Small)+n
		return func(a *account, s Segment) bool {
			return a == own || (a.total() > sure && (s == Main || a.in(s) > most))
		}
	}
}

// forPlace gives who pays for the place of a blob that an owner brings, where there are too many: himself, and who has
// more blobs.
func (p *Policy) forPlace(own *account) func() payer {
	return func() payer {
		return func(a *account, _ Segment) bool { return a == own || a.count() > own.count()+1 }
	}
}

// evictWhile removes and gives blobs of those who may have to pay, until there is enough; ok tells whether it is.
func (p *Policy) evictWhile(more func() bool, payers func() payer) (victims []*Blob, ok bool) {
	for more() {
		own, s := p.choose(payers())
		if own == nil {
			return victims, false
		}
		if b := p.evict(own, s); b != nil {
			victims = append(victims, b)
		}
	}
	return victims, true
}

// choose says from which queue a blob has to go next, of those who pay: a small one, if these have more than their part
// of the room, else a main one.
func (p *Policy) choose(pays payer) (*account, Segment) {
	first := Main
	if p.sum.held[Small]+p.sum.reserved > p.bounds.Bytes/smallPart {
		first = Small
	}
	for _, s := range [...]Segment{first, 1 - first} {
		var found *account
		for _, a := range p.accounts {
			if a.idle[s] > 0 && pays(a, s) && (found == nil || before(a, found, s)) {
				found = a
			}
		}
		if found != nil {
			return found, s
		}
	}
	return nil, 0
}

// before tells who of two has to let go of something first. Of what was asked for once, who has most of it: nobody can
// push out what another brought by bringing more. Of what was asked for often, whose blob had its turn before.
func before(a, b *account, s Segment) bool {
	if s == Main {
		return a.first(s).Place < b.first(s).Place
	}
	if a.in(s) != b.in(s) {
		return a.in(s) > b.in(s)
	}
	return a.owner < b.owner
}

// in gives what an owner has in a segment: what is on its way will be in the small one.
func (a *account) in(s Segment) int64 {
	if s == Small {
		return a.held[s] + a.reserved
	}
	return a.held[s]
}

// evict takes the first blob of a queue that nobody reads. It is evicted, or put to the end of the main queue because
// it was used; then there is none to give.
func (p *Policy) evict(own *account, s Segment) *Blob {
	b := own.first(s)
	switch {
	case b.Uses > 0 && s == Small:
		p.dequeue(b)
		b.Uses = 0
		p.enqueue(b, Main, 0)
		return nil
	case b.Uses > 0:
		p.dequeue(b)
		b.Uses--
		p.enqueue(b, Main, 0)
		return nil
	}
	if s == Small {
		p.remember(b)
	}
	p.Remove(b)
	return b
}

// first gives the first blob of a queue that nobody reads. There is one.
func (a *account) first(s Segment) *Blob {
	place := a.queues[s].Back()
	for place.Value.(*Blob).pins > 0 {
		place = place.Prev()
	}
	return place.Value.(*Blob)
}

// ghost is a blob that left before it was asked for again.
type ghost struct {
	account *account
	blob    *Blob
}

// remember notes that a blob has left its small queue. As many are remembered as there is room for their like, so
// that each owner is known to want again what comes back within the time in which all of his room is filled anew.
func (p *Policy) remember(b *Blob) {
	own := b.account
	p.forgive(b.Digest)
	p.ghosts[b.Digest] = own.ghosts.PushFront(ghost{own, b})
	own.ghostBytes += b.Size
	for own.ghostBytes > p.bounds.Bytes {
		p.forget(own.ghosts.Back())
	}
	for len(p.ghosts) > p.bounds.Blobs {
		var found *account
		for _, a := range p.accounts {
			if found == nil || a.ghosts.Len() > found.ghosts.Len() ||
				(a.ghosts.Len() == found.ghosts.Len() && a.owner < found.owner) {
				found = a
			}
		}
		p.forget(found.ghosts.Back())
	}
}

// forgive forgets a ghost by its digest, and tells whether there was one.
func (p *Policy) forgive(dgst digest.Digest) bool {
	place := p.ghosts[dgst]
	if place == nil {
		return false
	}
	p.forget(place)
	return true
}

func (p *Policy) forget(place *list.Element) {
	g := place.Value.(ghost)
	delete(p.ghosts, g.blob.Digest)
	g.account.ghosts.Remove(place)
	g.account.ghostBytes -= g.blob.Size
	p.tidy(g.account)
}

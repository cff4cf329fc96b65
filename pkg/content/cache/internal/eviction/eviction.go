// Package eviction decides which blobs a bounded cache lets go of, and what it takes on: what is asked for once does
// not push out what is asked for often, and no owner pushes out what others brought beyond its share.
//
// It is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), counted in bytes: what is
// new waits in a small queue, of a tenth of the room, and leaves it for good unless it is asked for again; what was, or
// what comes back soon after it left, goes to the main queue, whose blobs get one more round for each time that they
// were asked for. Between owners, what was asked for once is shared equally, and of the room each is sure of half of an
// equal share; the rest goes to what is asked for most, whoever brought it.
//
// It does no I/O, has no clock, and does the same for the same calls. Where blobs are, and what belongs to them, is the
// business of others.
package eviction

import (
	"container/list"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

const (
	// smallPart is which part of the room is for what was asked for once, if the rest is wanted by what was more often.
	// More suits blobs that are asked for again late; less lets less of what nobody wants again stay.
	smallPart = 10

	// mostUses is how often a use counts: so many more rounds a blob gets in the main queue. What was popular once must
	// not stay for ever.
	mostUses = 3

	// Together is how long uses count as one. A single pull asks for the same manifest several times, and a rollout
	// asks on all nodes at once: neither says that it is wanted again.
	Together = time.Minute
)

// Segment is which of an owner's queues a blob is in.
type Segment uint8

// The queues of S3-FIFO. The ghosts, who are not held any more, have no segment.
const (
	Small Segment = iota
	Main
	segments
)

// Bounds are what a Policy keeps.
type Bounds struct {
	Bytes int64
	Blobs int
}

// Blob is one blob that is held, or that was and is still being read. Its fields belong to the Policy once it was
// inserted, and may be read.
type Blob struct {
	Digest  digest.Digest
	Owner   content.Owner
	Size    int64
	LastUse time.Time
	Segment Segment
	// Uses counts the uses since the blob came to its queue, up to what counts.
	Uses uint8
	// Place says where in its queue the blob is: the one with the least goes first. Zero gives it the last place.
	Place uint64

	counted time.Time // The last use that Uses counts.
	pins    int
	account *account
	element *list.Element // Nil once the blob is no longer held.
}

// Held tells whether the blob is held.
func (b *Blob) Held() bool { return b.element != nil }

// Policy knows what is held and who brought it, and what has come so far of what is on its way. It is not safe for
// concurrent use.
//
// Always: Bytes()+Reserved() <= Bounds.Bytes and Blobs()+Arriving() <= Bounds.Blobs (once Trim was called after a
// start).
type Policy struct {
	bounds   Bounds
	accounts map[content.Owner]*account
	sum      account // Of all owners. It has no queues.
	last     uint64  // The last Place that was given.

	ghosts map[digest.Digest]*list.Element
}

// account is what one owner has.
type account struct {
	owner  content.Owner
	queues [segments]*list.List // Of *Blob, the last one in front.
	held   [segments]int64      // Bytes in the queues.
	idle   [segments]int        // How many in the queues nobody reads.

	bytes    int64 // Of what is held, and of what is gone but is still being read.
	reserved int64 // Of what is on its way.
	blobs    int   // How many are held.
	arriving int   // How many are on their way.

	pinnedBytes int64 // The part of bytes that can't be evicted.
	pinnedBlobs int   // How many of blobs can't be evicted.
	announced   int64 // What those on their way will have in the end, if what is said of them is true.

	ghosts     *list.List // Of ghost, the last one in front.
	ghostBytes int64
}

// New makes a Policy that knows no blobs.
func New(bounds Bounds) *Policy {
	return &Policy{bounds: bounds, accounts: make(map[content.Owner]*account), ghosts: make(map[digest.Digest]*list.Element)}
}

// Bytes gives the bytes of all blobs, those included that are only held by their readers.
func (p *Policy) Bytes() int64 { return p.sum.bytes }

// Reserved gives the bytes of what is on its way.
func (p *Policy) Reserved() int64 { return p.sum.reserved }

func (p *Policy) account(owner content.Owner) *account {
	a := p.accounts[owner]
	if a == nil {
		a = &account{owner: owner, ghosts: list.New()}
		for s := range a.queues {
			a.queues[s] = list.New()
		}
		p.accounts[owner] = a
	}
	return a
}

// tidy forgets an owner that has nothing. An empty blob that is only read may still know his account; by then he may
// have another.
func (p *Policy) tidy(a *account) {
	if p.accounts[a.owner] == a && a.bytes == 0 && a.blobs == 0 && a.arriving == 0 && a.ghosts.Len() == 0 {
		delete(p.accounts, a.owner)
	}
}

// both changes an owner's account and the sum of all.
func (p *Policy) both(a *account, change func(*account)) {
	change(a)
	change(&p.sum)
}

// Insert makes a blob held that is not held yet, with what is known of it from before. What has just been got again is
// known to be wanted more than once.
func (p *Policy) Insert(b *Blob) {
	if p.forgive(b.Digest) {
		b.Segment = Main
	}
	b.Segment, b.Uses, b.counted = min(b.Segment, Main), min(b.Uses, mostUses), b.LastUse
	b.account = p.account(b.Owner)
	p.both(b.account, func(a *account) { a.bytes += b.Size; a.blobs++ })
	p.enqueue(b, b.Segment, b.Place)
}

// enqueue puts a blob to the end of a queue. Those of one queue are inserted in the order of their places.
func (p *Policy) enqueue(b *Blob, s Segment, place uint64) {
	if place == 0 {
		place = p.last + 1
	}
	p.last = max(p.last, place)
	b.Segment, b.Place = s, place
	b.element = b.account.queues[s].PushFront(b)
	p.both(b.account, func(a *account) {
		a.held[s] += b.Size
		if b.pins == 0 {
			a.idle[s]++
		}
	})
}

// dequeue takes a blob out of its queue.
func (p *Policy) dequeue(b *Blob) {
	b.account.queues[b.Segment].Remove(b.element)
	b.element = nil
	p.both(b.account, func(a *account) {
		a.held[b.Segment] -= b.Size
		if b.pins == 0 {
			a.idle[b.Segment]--
		}
	})
}

// Remove makes a blob no longer held. Its bytes count until its last reader is done.
func (p *Policy) Remove(b *Blob) {
	if !b.Held() {
		return
	}
	p.dequeue(b)
	p.both(b.account, func(a *account) {
		a.blobs--
		if b.pins > 0 {
			a.pinnedBlobs--
		} else {
			a.bytes -= b.Size
		}
	})
	p.tidy(b.account)
}

// Use counts a use of a held blob, and tells whether that is of any consequence.
func (p *Policy) Use(b *Blob, now time.Time) (counts bool) {
	b.LastUse = now
	switch {
	case now.Before(b.counted): // The clock was put back.
		b.counted = now
	case now.Sub(b.counted) >= Together:
		b.counted = now
		if b.Uses < mostUses {
			b.Uses++
			return true
		}
	}
	return false
}

// Pin keeps a held blob from being evicted until Unpin.
func (p *Policy) Pin(b *Blob) {
	b.pins++
	if b.pins > 1 {
		return
	}
	p.both(b.account, func(a *account) {
		a.pinnedBytes += b.Size
		a.pinnedBlobs++
		a.idle[b.Segment]--
	})
}

// Unpin ends a Pin. With the last one, the space of a blob that is no longer held is free: its reader has closed it.
func (p *Policy) Unpin(b *Blob) {
	b.pins--
	if b.pins > 0 {
		return
	}
	p.both(b.account, func(a *account) {
		a.pinnedBytes -= b.Size
		if b.Held() {
			a.pinnedBlobs--
			a.idle[b.Segment]++
		} else {
			a.bytes -= b.Size
		}
	})
	p.tidy(b.account)
}

// Fairest gives whose a blob should be that two owners brought: the one's that has less, for there it is safer from
// being pushed out by what else the other brings.
func (p *Policy) Fairest(b *Blob, other content.Owner) content.Owner {
	others := int64(0)
	if a := p.accounts[other]; a != nil {
		others = a.total()
	}
	if b.Owner != other && others+b.Size < b.account.total() {
		return other
	}
	return b.Owner
}

// Charge makes a held blob another owner's.
func (p *Policy) Charge(b *Blob, owner content.Owner) {
	if b.Owner == owner || !b.Held() {
		return
	}
	from, to := b.account, p.account(owner)
	move := func(a *account, sign int) {
		a.bytes += int64(sign) * b.Size
		a.blobs += sign
		if b.pins > 0 {
			a.pinnedBytes += int64(sign) * b.Size
			a.pinnedBlobs += sign
		}
	}
	p.dequeue(b)
	move(from, -1)
	b.Owner, b.account = owner, to
	move(to, 1)
	p.enqueue(b, b.Segment, 0)
	p.tidy(from)
}

// count gives how many blobs count for an owner.
func (a *account) count() int64 { return int64(a.blobs + a.arriving) }

// total gives all bytes that count for an owner.
func (a *account) total() int64 { return a.bytes + a.reserved }

// Package ledger owns the records of who holds what: the Index keeps what others announced to this member, the Book
// what this member holds itself and whom it has told.
//
// It is pure: no goroutine, no clock, no network. Nothing in it is safe for concurrent use.
package ledger

import (
	"maps"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// shards divide the index, so that one sweep is short. It is a power of two.
const shards = 64

// Record is one member's word that it holds something.
type Record struct {
	ID        peer.ID
	Digest    digest.Digest
	Confirmed time.Time
}

// meaning is what a tag means; content has none, and most records are of content.
type meaning struct {
	digest    digest.Digest
	confirmed time.Time
}

// provider is a member, with how many records there are of it: those of ended lives that were not swept yet included,
// so that nobody gets more room by starting anew.
type provider struct {
	id    peer.ID
	count int
	now   *life // Nil once it ended.
}

// life is one life of a member. Ending it ends all of its records without looking for them.
type life struct {
	of    *provider
	epoch uint64
	ended bool
}

type record struct {
	from    *life
	meaning *meaning
	expires int64 // Unix nanoseconds.
}

// Index keeps announced records until they expire.
type Index struct {
	ttl       time.Duration
	perMember int
	max       int
	total     int
	keys      [shards]map[wire.Key][]record
	providers map[peer.ID]*provider
	next      int
}

// NewIndex makes an index whose records live that long, with at most perMember of each member and max in total.
func NewIndex(ttl time.Duration, perMember, max int) *Index {
	x := &Index{ttl: ttl, perMember: perMember, max: max, providers: map[peer.ID]*provider{}}
	for i := range x.keys {
		x.keys[i] = map[wire.Key][]record{}
	}
	return x
}

// Len gives the number of records, expired ones included that were not swept yet.
func (x *Index) Len() int { return x.total }

// Store takes in what a member in that life announces and withdraws. It gives how many entries found no room.
func (x *Index) Store(now time.Time, from peer.ID, epoch uint64, add []wire.Entry, remove []wire.Key) (refused int) {
	x.Seen(from, epoch)
	p, ok := x.providers[from]
	if !ok {
		p = &provider{id: from}
		x.providers[from] = p
	}
	if p.now == nil {
		p.now = &life{of: p, epoch: epoch}
	}
	for _, k := range remove {
		x.removeIf(k, func(r record) bool { return r.from == p.now })
	}
	for i := range add {
		if !x.put(now, p.now, &add[i]) {
			refused++
		}
	}
	return refused
}

func (x *Index) put(now time.Time, from *life, e *wire.Entry) bool {
	shard := x.shard(e.Key)
	rec := record{from: from, expires: now.Add(x.ttl).UnixNano()}
	if e.Digest != "" {
		rec.meaning = &meaning{digest: e.Digest, confirmed: e.Confirmed}
	}
	records := shard[e.Key]
	for i := range records {
		// A record of an earlier life gives its place.
		if records[i].from.of == from.of {
			records[i] = rec
			return true
		}
	}
	p := from.of
	if p.count >= x.perMember || x.total >= x.max {
		return false
	}
	shard[e.Key] = append(records, rec)
	p.count++
	x.total++
	return true
}

// Seen notes which life a member is in; records of another one end.
func (x *Index) Seen(id peer.ID, epoch uint64) {
	if p, ok := x.providers[id]; ok && p.now != nil && p.now.epoch != epoch {
		x.Drop(id)
	}
}

// Drop ends all records of a member.
func (x *Index) Drop(id peer.ID) {
	if p, ok := x.providers[id]; ok && p.now != nil {
		p.now.ended = true
		p.now = nil
	}
}

// Get gives the records of a key that hold now, in no order.
func (x *Index) Get(now time.Time, key wire.Key) []Record {
	records := x.shard(key)[key]
	out := make([]Record, 0, len(records))
	for _, r := range records {
		if r.from.ended || r.expires <= now.UnixNano() {
			continue
		}
		rec := Record{ID: r.from.of.id}
		if r.meaning != nil {
			rec.Digest, rec.Confirmed = r.meaning.digest, r.meaning.confirmed
		}
		out = append(out, rec)
	}
	return out
}

// Sweep frees what no longer holds in one part of the index. As many calls as there are parts free everything.
func (x *Index) Sweep(now time.Time) {
	for key := range x.keys[x.next] {
		x.removeIf(key, func(r record) bool { return r.from.ended || r.expires <= now.UnixNano() })
	}
	x.next = (x.next + 1) % shards
	maps.DeleteFunc(x.providers, func(_ peer.ID, p *provider) bool { return p.count == 0 })
}

func (x *Index) removeIf(key wire.Key, drop func(record) bool) {
	shard := x.shard(key)
	records := shard[key]
	kept := records[:0]
	for _, r := range records {
		if !drop(r) {
			kept = append(kept, r)
			continue
		}
		x.total--
		r.from.of.count--
	}
	clear(records[len(kept):])
	if len(kept) == 0 {
		delete(shard, key)
	} else {
		shard[key] = kept
	}
}

// shard picks by the end of the key, because keys that lie near this member all begin alike.
func (x *Index) shard(key wire.Key) map[wire.Key][]record { return x.keys[key[len(key)-1]%shards] }

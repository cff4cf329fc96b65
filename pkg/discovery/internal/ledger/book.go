package ledger

import (
	"maps"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Replicas is how many of the closest members are told of each key.
const Replicas = 3

// Fleet is what the Book needs to know of the members.
type Fleet interface {
	// Generation changes whenever ClosestIDs may answer differently.
	Generation() uint64
	// ClosestIDs appends the n members closest to a place to ids.
	ClosestIDs(ids []peer.ID, place wire.Place, n int) []peer.ID
	// Get tells whether a member is believed alive.
	Get(id peer.ID) (wire.Member, bool)
}

// told is a member that has our word, in that version, until it expires.
type told struct {
	who     peer.ID
	at      time.Time
	version uint32
}

type item struct {
	entry      wire.Entry
	place      wire.Place
	version    uint32
	gone       bool
	told       []told
	targets    []peer.ID
	generation uint64
}

// Batch is one message to one member. It comes back to Done.
type Batch struct {
	To       peer.ID
	Add      []wire.Entry
	Remove   []wire.Key
	at       time.Time
	versions []uint32
}

// Book keeps what this member holds and works out whom to tell: the members closest to each key, again before the
// records expire, and again when others are the closest. Each member is told one batch at a time.
type Book struct {
	refresh, ttl time.Duration
	items        map[wire.Key]*item
	dirty        map[wire.Key]*item
	scan         bool
	busy         map[peer.ID]bool
	epochs       map[peer.ID]uint64
	held         int
}

// NewBook makes an empty book whose records are told anew after refresh, and expire after ttl.
func NewBook(refresh, ttl time.Duration) *Book {
	return &Book{
		refresh: refresh, ttl: ttl,
		items: map[wire.Key]*item{}, dirty: map[wire.Key]*item{},
		busy: map[peer.ID]bool{}, epochs: map[peer.ID]uint64{},
	}
}

// Len gives how many things this member holds.
func (b *Book) Len() int { return b.held }

// Pending gives how many things somebody still has to be told of.
func (b *Book) Pending() int { return len(b.dirty) }

// Busy gives how many batches are on their way.
func (b *Book) Busy() int { return len(b.busy) }

// Set notes what is held from now on, and what no longer is.
func (b *Book) Set(add []wire.Entry, remove []wire.Key) {
	for _, k := range remove {
		if it, ok := b.items[k]; ok && !it.gone {
			it.gone = true
			b.held--
			b.dirty[k] = it
		}
	}
	for _, e := range add {
		it, ok := b.items[e.Key]
		if ok && !it.gone && it.entry.Digest == e.Digest && it.entry.Confirmed.Equal(e.Confirmed) {
			continue
		}
		if !ok {
			it = &item{place: e.Key.Place()}
			b.items[e.Key] = it
		}
		if !ok || it.gone {
			b.held++
		}
		it.entry, it.gone = e, false
		it.version++
		b.dirty[e.Key] = it
	}
}

// Rescan makes the next Plan look at everything: because the members changed, or time has passed. Pending counts what
// it finds only then.
func (b *Book) Rescan() { b.scan = true }

// Seen notes which life a member is in. Who was started anew has forgotten what it was told.
func (b *Book) Seen(id peer.ID, epoch uint64) {
	if last, ok := b.epochs[id]; !ok || last == epoch {
		return
	}
	delete(b.epochs, id)
	for k, it := range b.items {
		it.told = slices.DeleteFunc(it.told, func(t told) bool { return t.who == id })
		b.dirty[k] = it
	}
}

// Plan gives the batches to send now.
func (b *Book) Plan(now time.Time, fleet Fleet) []Batch {
	p := plan{book: b, fleet: fleet, now: now, batches: map[peer.ID]*Batch{}}
	if b.scan {
		b.scan = false
		b.forget()
		for k, it := range b.items {
			// Of thousands of items few are incomplete, even when the members changed.
			if it.gone || p.incomplete(it) {
				b.dirty[k] = it
			}
		}
	}
	for k, it := range b.dirty {
		if it.gone && p.withdraw(k, it) {
			delete(b.items, k)
			delete(b.dirty, k)
		} else if !it.gone && p.announce(it) {
			delete(b.dirty, k)
		}
	}
	out := make([]Batch, 0, len(p.batches))
	for to, batch := range p.batches {
		b.busy[to] = true
		out = append(out, *batch)
	}
	return out
}

// forget drops the lives of members that have no word of ours, so that who comes and goes leaves nothing.
func (b *Book) forget() {
	told := make(map[peer.ID]bool, len(b.epochs))
	for _, it := range b.items {
		for _, t := range it.told {
			told[t.who] = true
		}
	}
	maps.DeleteFunc(b.epochs, func(id peer.ID, _ uint64) bool { return !told[id] })
}

// Done takes a batch back, with whether the member acknowledged it and which life of the member that was.
func (b *Book) Done(batch Batch, epoch uint64, ok bool) {
	delete(b.busy, batch.To)
	if !ok {
		return
	}
	b.Seen(batch.To, epoch)
	b.epochs[batch.To] = epoch
	for i := range batch.Add {
		key := batch.Add[i].Key
		it, known := b.items[key]
		if !known {
			// It was withdrawn from all who knew while this was on its way.
			it = &item{entry: batch.Add[i], place: key.Place(), gone: true}
			b.items[key] = it
		}
		if it.gone {
			b.dirty[key] = it
		}
		it.forget(batch.To, batch.at.Add(-b.ttl))
		it.told = append(it.told, told{who: batch.To, at: batch.at, version: batch.versions[i]})
	}
	for _, key := range batch.Remove {
		if it, known := b.items[key]; known {
			it.forget(batch.To, batch.at.Add(-b.ttl))
			b.dirty[key] = it
		}
	}
}

// forget drops who from those told, and everybody who was told before that time.
func (it *item) forget(who peer.ID, before time.Time) {
	it.told = slices.DeleteFunc(it.told, func(t told) bool { return t.who == who || t.at.Before(before) })
}

// plan is the work of one Plan.
type plan struct {
	book    *Book
	fleet   Fleet
	now     time.Time
	batches map[peer.ID]*Batch
}

// aim brings an item's targets up to date.
func (p *plan) aim(it *item) {
	if g := p.fleet.Generation(); it.targets == nil || it.generation != g {
		it.targets, it.generation = p.fleet.ClosestIDs(it.targets[:0], it.place, Replicas), g
	}
}

// lacks says whether a member has to be told of an item.
func (p *plan) lacks(it *item, to peer.ID) bool {
	for i := range it.told {
		if t := &it.told[i]; t.version == it.version && t.who == to {
			return p.now.Sub(t.at) >= p.book.refresh
		}
	}
	return true
}

func (p *plan) incomplete(it *item) bool {
	p.aim(it)
	for _, to := range it.targets {
		if p.lacks(it, to) {
			return true
		}
	}
	return false
}

// announce adds an item to the batches of those that should hear of it, and says whether nobody is left.
func (p *plan) announce(it *item) bool {
	p.aim(it)
	complete := true
	for _, to := range it.targets {
		if !p.lacks(it, to) {
			continue
		}
		complete = false
		if b := p.batch(to); b != nil {
			b.Add = append(b.Add, it.entry)
			b.versions = append(b.versions, it.version)
		}
	}
	return complete
}

// withdraw adds an item to the batches of those that have our word for it, and says whether nobody is left.
func (p *plan) withdraw(k wire.Key, it *item) bool {
	it.forget("", p.now.Add(-p.book.ttl))
	for _, t := range it.told {
		if _, alive := p.fleet.Get(t.who); !alive {
			continue // It is told when it is back; if it stays away, the record expires.
		}
		if b := p.batch(t.who); b != nil {
			b.Remove = append(b.Remove, k)
		}
	}
	return len(it.told) == 0
}

// batch gives the batch for a member, or nil if it can't take more now.
func (p *plan) batch(to peer.ID) *Batch {
	b, ok := p.batches[to]
	switch {
	case ok && len(b.Add)+len(b.Remove) >= wire.MaxBatch, !ok && p.book.busy[to]:
		return nil
	case !ok:
		b = &Batch{To: to, at: p.now}
		p.batches[to] = b
	}
	return b
}

package ledger

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	refresh = 5 * time.Minute
	ttl     = 15 * time.Minute
)

// world is a set of members with an index each: who is up hears what it is told.
type world struct {
	up         map[peer.ID]*Index
	epochs     map[peer.ID]uint64
	generation uint64
}

func newWorld(n int) *world {
	w := &world{up: map[peer.ID]*Index{}, epochs: map[peer.ID]uint64{}}
	for i := range n {
		w.start(id(i))
	}
	return w
}

func (w *world) start(id peer.ID) {
	w.up[id] = NewIndex(ttl, 1<<20, 1<<20)
	w.epochs[id]++
	w.generation++
}

func (w *world) stop(id peer.ID) {
	delete(w.up, id)
	w.generation++
}

func (w *world) Generation() uint64 { return w.generation }

func (w *world) ClosestIDs(ids []peer.ID, place wire.Place, n int) []peer.ID {
	all := ids
	for id := range w.up {
		all = append(all, id)
	}
	slices.SortFunc(all, func(a, b peer.ID) int {
		pa, pb := wire.PlaceOf(a), wire.PlaceOf(b)
		for i := range place {
			pa[i] ^= place[i]
			pb[i] ^= place[i]
		}
		return bytes.Compare(pa[:], pb[:])
	})
	return all[:min(n, len(all))]
}

func (w *world) Get(id peer.ID) (wire.Member, bool) {
	_, ok := w.up[id]
	return wire.Member{ID: id}, ok
}

// settle plans and delivers until nothing is left to tell anybody who is up.
func (w *world) settle(t *testing.T, b *Book, now time.Time) (batches int) {
	t.Helper()
	for range 100 {
		planned := b.Plan(now, w)
		if len(planned) == 0 {
			return batches
		}
		for _, batch := range planned {
			batches++
			w.deliver(b, batch, now)
		}
	}
	t.Fatal("the book does not settle")
	return batches
}

func (w *world) deliver(b *Book, batch Batch, now time.Time) {
	x, up := w.up[batch.To]
	if up {
		x.Store(now, "self", 1, batch.Add, batch.Remove)
	}
	b.Done(batch, w.epochs[batch.To], up)
}

// check compares what the indices hold with what should be: the closest know all that is held, and nobody who is up
// knows of anything else.
func (w *world) check(t *testing.T, held map[wire.Key]bool, now time.Time) {
	t.Helper()
	for k := range held {
		for _, id := range w.ClosestIDs(nil, k.Place(), Replicas) {
			if len(w.up[id].Get(now, k)) != 1 {
				t.Fatalf("%s does not know of %s", id, k)
			}
		}
	}
	for id, x := range w.up {
		for i := range 300 {
			if k := key(i); !held[k] && len(x.Get(now, k)) != 0 {
				t.Fatalf("%s knows of %s, which is withdrawn", id, k)
			}
		}
	}
}

func TestBookAgainstWorld(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	w := newWorld(12)
	b := NewBook(refresh, ttl)
	held := map[wire.Key]bool{}
	now := start
	for range 300 {
		now = now.Add(time.Duration(rnd.IntN(60)) * time.Second)
		for range rnd.IntN(10) {
			k := key(rnd.IntN(300))
			if rnd.IntN(2) == 0 {
				held[k] = true
				b.Set([]wire.Entry{{Key: k}}, nil)
			} else {
				delete(held, k)
				b.Set(nil, []wire.Key{k})
			}
		}
		// Batches may be on their way while holdings and members change.
		flying := b.Plan(now, w)
		who := id(rnd.IntN(12))
		switch rnd.IntN(4) {
		case 0:
			w.stop(who)
		case 1:
			w.start(who)
			b.Seen(who, w.epochs[who])
		case 2:
			k := key(rnd.IntN(300))
			delete(held, k)
			b.Set(nil, []wire.Key{k})
		}
		for _, batch := range flying {
			w.deliver(b, batch, now)
		}
		b.Rescan()
		w.settle(t, b, now)
		w.check(t, held, now)
		if b.Len() != len(held) {
			t.Fatalf("holds %d, want %d", b.Len(), len(held))
		}
	}
}

// TestBookForgets: members that come and go leave nothing behind.
func TestBookForgets(t *testing.T) {
	w := newWorld(3)
	b := NewBook(refresh, ttl)
	b.Set([]wire.Entry{{Key: key(1)}}, nil)
	now := start
	for i := range 100 {
		w.settle(t, b, now)
		w.stop(id(i))
		w.start(id(i + 3))
		now = now.Add(2 * ttl)
		b.Rescan()
	}
	w.settle(t, b, now)
	b.Rescan()
	w.settle(t, b, now)
	if n := len(b.epochs); n > 2*Replicas {
		t.Errorf("knows the lives of %d members", n)
	}
}

func TestBookRefreshes(t *testing.T) {
	w := newWorld(5)
	b := NewBook(refresh, ttl)
	b.Set([]wire.Entry{{Key: key(1)}}, nil)
	if n := w.settle(t, b, start); n != Replicas || b.Pending() != 0 {
		t.Errorf("told in %d batches; %d pending", n, b.Pending())
	}
	b.Set([]wire.Entry{{Key: key(1)}}, nil)
	b.Rescan()
	if n := w.settle(t, b, start.Add(refresh-1)); n != 0 {
		t.Errorf("told again in %d batches though nothing changed", n)
	}
	b.Rescan()
	if n := w.settle(t, b, start.Add(refresh)); n != Replicas {
		t.Errorf("refreshed in %d batches", n)
	}
}

func TestBookBoundsBatches(t *testing.T) {
	w := newWorld(1)
	b := NewBook(refresh, ttl)
	for i := range 2*wire.MaxBatch + 1 {
		b.Set([]wire.Entry{{Key: key(i)}}, nil)
	}
	first := b.Plan(start, w)
	if len(first) != 1 || len(first[0].Add) != wire.MaxBatch {
		t.Fatalf("first plan has %d batches", len(first))
	}
	if again := b.Plan(start, w); len(again) != 0 {
		t.Error("a second batch goes out while the first is on its way")
	}
	b.Done(first[0], 1, false)
	if n := w.settle(t, b, start); n != 3 {
		t.Errorf("told in %d batches, want 3", n)
	}
}

func TestBookWithdrawsOnceWhoWasAwayIsBack(t *testing.T) {
	w := newWorld(3)
	b := NewBook(refresh, ttl)
	b.Set([]wire.Entry{{Key: key(1)}}, nil)
	w.settle(t, b, start)
	away, index := id(1), w.up[id(1)]
	w.stop(away)
	b.Set(nil, []wire.Key{key(1)})
	w.settle(t, b, start)
	w.up[away] = index // The network was gone, not the member.
	w.settle(t, b, start.Add(time.Minute))
	w.check(t, nil, start.Add(time.Minute))
	if b.Pending() != 0 || len(b.items) != 0 {
		t.Errorf("%d items are kept", len(b.items))
	}
}

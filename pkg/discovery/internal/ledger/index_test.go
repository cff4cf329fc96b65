package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

var start = time.Unix(1_000_000, 0)

func key(i int) wire.Key { return wire.KeyOf("test", fmt.Sprint(i)) }

func id(i int) peer.ID { return peer.ID(fmt.Sprintf("member-%04d", i)) }

func holders(records []Record) []peer.ID {
	ids := []peer.ID{}
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	return ids
}

type word struct {
	key wire.Key
	who peer.ID
}

// words is who said what until when.
type words map[word]time.Time

func (ws words) holders(k wire.Key, now time.Time) []peer.ID {
	ids := []peer.ID{}
	for w, until := range ws {
		if w.key == k && now.Before(until) {
			ids = append(ids, w.who)
		}
	}
	slices.Sort(ids)
	return ids
}

// TestIndexAgainstModel compares the index with a plain map.
func TestIndexAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const ttl = time.Minute
	x := NewIndex(ttl, 1000, 10000)
	model := words{}
	epochs := map[peer.ID]uint64{}
	forget := func(who peer.ID) {
		for w := range model {
			if w.who == who {
				delete(model, w)
			}
		}
	}
	now := start
	for range 30_000 {
		now = now.Add(time.Duration(rnd.IntN(200)) * time.Millisecond)
		who := id(rnd.IntN(8))
		switch n := rnd.IntN(100); {
		case n < 70:
			var add []wire.Entry
			var remove []wire.Key
			for range rnd.IntN(4) {
				k := key(rnd.IntN(60))
				remove = append(remove, k)
				delete(model, word{k, who})
			}
			for range rnd.IntN(6) {
				k := key(rnd.IntN(60))
				add = append(add, wire.Entry{Key: k})
				model[word{k, who}] = now.Add(ttl)
			}
			if n := x.Store(now, who, epochs[who], add, remove); n != 0 {
				t.Fatalf("%d entries refused", n)
			}
		case n < 72:
			x.Drop(who)
			forget(who)
		case n < 74:
			epochs[who]++
			x.Seen(who, epochs[who])
			forget(who)
		default:
			x.Sweep(now)
		}
		k := key(rnd.IntN(60))
		if got, want := holders(x.Get(now, k)), model.holders(k, now); !slices.Equal(got, want) {
			t.Fatalf("holders are %q, want %q", got, want)
		}
	}
	now = now.Add(ttl)
	for range shards {
		x.Sweep(now)
	}
	if x.Len() != 0 || len(x.providers) != 0 {
		t.Errorf("%d records and %d providers are left after everything expired", x.Len(), len(x.providers))
	}
}

func TestIndexIsBounded(t *testing.T) {
	x := NewIndex(time.Minute, 10, 15)
	var add []wire.Entry
	for i := range 12 {
		add = append(add, wire.Entry{Key: key(i)})
	}
	if refused := x.Store(start, id(1), 1, add, nil); refused != 2 {
		t.Errorf("%d of 12 refused with room for 10 of a member", refused)
	}
	if refused := x.Store(start, id(1), 1, add[:10], nil); refused != 0 {
		t.Errorf("%d refused that are only refreshed", refused)
	}
	if refused := x.Store(start, id(2), 1, add, nil); refused != 7 || x.Len() != 15 {
		t.Errorf("%d of 12 refused with room for 5 in total; %d records", refused, x.Len())
	}
}

// TestNewLivesGetNoMoreRoom has a member say again and again that it was started anew, or that it goes: what it made
// others remember before counts until it is swept.
func TestNewLivesGetNoMoreRoom(t *testing.T) {
	for name, again := range map[string]func(x *Index, epoch uint64){
		"started": func(*Index, uint64) {},
		"gone":    func(x *Index, _ uint64) { x.Drop(id(1)) },
	} {
		x := NewIndex(time.Minute, 10, 1000)
		for epoch := range uint64(50) {
			var add []wire.Entry
			for i := range 10 {
				add = append(add, wire.Entry{Key: key(int(epoch)*10 + i)})
			}
			x.Store(start, id(1), epoch, add, nil)
			again(x, epoch)
		}
		if n := x.Len(); n > 10 {
			t.Errorf("%s: %d records are kept of a member that may have 10", name, n)
		}
		for range shards {
			x.Sweep(start)
		}
		if refused := x.Store(start, id(1), 99, []wire.Entry{{Key: key(7)}}, nil); refused != 0 {
			t.Errorf("%s: no room after what ended was swept", name)
		}
	}
}

func TestIndexKeepsWhatTagsMean(t *testing.T) {
	x := NewIndex(time.Minute, 10, 10)
	tag := wire.Entry{Key: key(1), Digest: digest.FromString("a"), Confirmed: start}
	x.Store(start, id(1), 1, []wire.Entry{tag}, nil)
	tag.Digest = digest.FromString("b")
	x.Store(start, id(1), 1, []wire.Entry{tag}, nil)
	want := []Record{{ID: id(1), Digest: tag.Digest, Confirmed: start}}
	if got := x.Get(start, key(1)); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func BenchmarkIndexStore(b *testing.B) {
	x := NewIndex(time.Minute, 1<<20, 1<<20)
	add := make([]wire.Entry, wire.MaxBatch)
	for i := range add {
		add[i].Key = key(i)
	}
	for i := range b.N {
		x.Store(start, id(i%50), 1, add, nil)
	}
}

package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSizesApart has members announce a blob who were told a wrong size of it, before those who know the right one: the
// latter fetch it together as if there were no others, and who learns better is with them.
func TestSizesApart(t *testing.T) {
	const right, wrong = 100 << 20, 60 << 20
	tr := NewTracker(TrackerConfig{Rand: rand.New(rand.NewPCG(1, 1))})
	now := time.Unix(1000, 0)
	tell := func(id ID, size int64) Assignment {
		now = now.Add(100 * time.Millisecond)
		return tr.Announce(now, "b", Announce{Member: id, Size: size}, nil)
	}
	for i := range 3 {
		tell(ID(fmt.Sprint("misled", i)), wrong)
	}
	if a := tell("a", right); a.NoSource || a.Size != right || len(a.Leases) == 0 {
		t.Fatalf("the first who knows the size is answered %+v", a)
	}
	tell("b", right)
	if a := tell("a", right); len(a.Neighbours) != 1 || a.Neighbours[0].Member != "b" {
		t.Errorf("those who know the size are told of %v", a.Neighbours)
	}
	// Most say a wrong size, so that who knows none hears that one. It moves when it learns better.
	if a := tell("c", -1); a.Size != wrong {
		t.Errorf("who knows no size is told %d", a.Size)
	}
	if a := tell("c", right); a.Size != right || len(a.Neighbours) != 2 {
		t.Errorf("who has learned the size is answered %+v", a)
	}
	for group, b := range tr.blobs {
		if _, in := b.members["c"]; in != (b.size == right) {
			t.Errorf("whether c is in %s: %v", group, in)
		}
	}
	if got := tr.Announce(now, "b", Announce{Member: "c", Size: -1, Leaving: true}, nil); len(got.Leases) > 0 || tr.blobs[tr.Group("b", right)].members["c"] != nil {
		t.Error("who leaves stays")
	}
}

// TestSizesBounded says one size of a blob after the other, and expects that those who are many are not pushed out.
func TestSizesBounded(t *testing.T) {
	tr := NewTracker(TrackerConfig{Rand: rand.New(rand.NewPCG(1, 1))})
	now := time.Unix(1000, 0)
	tr.Announce(now, "b", Announce{Member: "a", Size: 1 << 30}, nil)
	tr.Announce(now, "b", Announce{Member: "b", Size: 1 << 30}, nil)
	for i := range int64(100) {
		tr.Announce(now.Add(time.Duration(i)), "b", Announce{Member: ID(fmt.Sprint("liar", i)), Size: OnePiece + i}, nil)
	}
	if len(tr.sized["b"]) != maxSizes || len(tr.blobs) != maxSizes || tr.blobs[tr.Group("b", 1<<30)] == nil {
		t.Errorf("%d sizes of %d blobs are kept", len(tr.sized["b"]), len(tr.blobs))
	}
	tr.Tick(now.Add(time.Minute))
	if len(tr.sized) != 0 || len(tr.blobs) != 0 {
		t.Error("sizes that nobody announces are kept")
	}
}

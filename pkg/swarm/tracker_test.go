package swarm

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestLoneMemberThenSecond(t *testing.T) {
	tr := NewTracker(TrackerConfig{Rand: rand.New(rand.NewPCG(1, 2))})
	now := time.Unix(0, 0)
	const size = 1 << 30
	one := tr.Announce(now, "b", Announce{Member: "a", Size: size}, nil)
	if len(one.Leases) != 1 || one.Leases[0] != (Lease{Start: 0, End: size}) {
		t.Fatalf("a lone member has %v, want the whole", one.Leases)
	}
	two := tr.Announce(now.Add(5*time.Millisecond), "b", Announce{Member: "b", Size: size}, nil)
	one = tr.Announce(now.Add(250*time.Millisecond), "b", Announce{Member: "a", Size: size}, nil)
	if len(two.Leases) != 1 || len(without(one.Leases, two.Leases)) != len(one.Leases) || one.Leases[0].End != size/8 {
		t.Fatalf("two members have %v and %v", one.Leases, two.Leases)
	}
	if len(one.Neighbours) != 1 || len(two.Neighbours) != 1 {
		t.Fatalf("they have not met: %v, %v", one.Neighbours, two.Neighbours)
	}
}

package swarm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestTrackerAgainstModel makes random announcements, and compares what the tracker keeps count of with a recount, and
// what it grants with what nobody has.
func TestTrackerAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 9))
		tr := NewTracker(TrackerConfig{Rand: r, Members: 20})
		now := time.Unix(0, 0)
		size := []int64{1 << 20, 5 << 20, 40 << 20, 600 << 20}[r.IntN(4)]
		layout := NewLayout(size)
		haves := make([]Pieces, 24)
		var holders []Neighbour
		if seed%3 == 0 {
			holders = []Neighbour{{"h1", "z0"}, {"h2", "z1"}}[:1+r.IntN(2)]
		}
		for step := range 600 {
			now = now.Add(time.Duration(r.IntN(400)) * time.Millisecond)
			i := r.IntN(len(haves))
			if r.IntN(30) == 0 {
				tr.Gone(now, ID(fmt.Sprint("m", i)))
				haves[i] = Pieces{}
				continue
			}
			for range r.IntN(layout.Pieces()/8 + 1) {
				haves[i].Add(r.IntN(layout.Pieces()))
			}
			a := Announce{Member: ID(fmt.Sprint("m", i)), Zone: fmt.Sprint("z", i%3), Size: size, Have: haves[i].Clone(),
				Complete: haves[i].Count() == layout.Pieces() && r.IntN(4) == 0, Upstream: Upstream(max(0, r.IntN(9)-4)),
				Stalled: r.IntN(9) == 0, Waiting: r.IntN(5) == 0, Leaving: r.IntN(50) == 0, Sequential: r.IntN(2000) == 0}
			if r.IntN(9) == 0 {
				a.Size = -1
			}
			a.Partners = r.IntN(3)
			for range r.IntN(9) - 5 {
				start := r.Int64N(size)
				a.Reading = append(a.Reading, Lease{Start: start, End: start + r.Int64N(size), From: []ID{"", "h1"}[r.IntN(2)]})
			}
			var before []uint16
			group := tr.Group("b", a.Size)
			if b := tr.blobs[group]; b != nil && len(a.Reading) == 0 { // Else it may go on with what others have a part of.
				before = slices.Clone(b.leased)
			}
			answer := tr.Announce(now, "b", a, holders)
			if err := recount(tr.blobs[group], before, a.Member); err != "" {
				t.Fatalf("seed %d, step %d, %+v: %s", seed, step, a, err)
			}
			if err := sane(answer, a, size); err != "" {
				t.Fatalf("seed %d, step %d, %+v is answered %+v: %s", seed, step, a, answer, err)
			}
		}
		tr.Tick(now.Add(time.Minute))
		if len(tr.blobs) != 0 {
			t.Fatal("a blob that nobody announces is kept")
		}
	}
}

// recount checks what a blob keeps count of.
func recount(b *blob, before []uint16, announced ID) string {
	if b == nil {
		return ""
	}
	copies, leased := make([]int, len(b.copies)), make([]int, len(b.copies))
	used := make(map[ID]int)
	complete, stalls, streams := 0, 0, 0
	for i, m := range b.order {
		if m.index != i || b.members[m.id] != m || len(b.order) != len(b.members) {
			return "members and order differ"
		}
		if m.complete {
			complete++
		}
		for p := range m.have.All {
			copies[p]++
		}
		for _, l := range m.leases {
			if l.owner != m || l.first >= l.last || l.last > len(copies) {
				return fmt.Sprintf("%s has a lease of %d to %d", m.id, l.first, l.last)
			}
			if l.from != "" {
				used[l.from]++
			}
			if l.stall {
				stalls++
			}
			if l.from == "" && !l.stall {
				streams++
			}
			for p := l.first; p < l.last; p++ {
				leased[p]++
				fresh := m.id == announced && len(before) == len(b.leased) && before[p] < b.leased[p]
				if whole := l.from != "" && l.last-l.first == len(copies); fresh && !l.stall && !whole && b.copies[p] > 0 && !b.sequential {
					return fmt.Sprintf("%s was granted piece %d, which %d have", m.id, p, b.copies[p])
				}
			}
		}
		if m.grant != "" {
			used[m.grant]++
		}
		if len(m.leases) > leaseDepth || len(m.links) > degree+2*farLinks {
			return fmt.Sprintf("%s has %d leases, %d links", m.id, len(m.leases), len(m.links))
		}
		for _, o := range m.links {
			if o == m || !slices.Contains(o.links, m) || b.members[o.id] != o {
				return fmt.Sprintf("%s is linked to %s, which is not", m.id, o.id)
			}
		}
	}
	for p := range copies {
		if copies[p] != int(b.copies[p]) || leased[p] != int(b.leased[p]) {
			return fmt.Sprintf("piece %d has %d copies and %d leases, counted are %d and %d", p, copies[p], leased[p], b.copies[p], b.leased[p])
		}
	}
	for id, s := range b.sources {
		if s.used != used[id] {
			return fmt.Sprintf("%s is used %d times, counted are %d", id, used[id], s.used)
		}
	}
	if complete != len(b.complete) || stalls > stallLeases*leaseDepth || streams > 2*leaseDepth*b.cfg.UpstreamLeases {
		return fmt.Sprintf("%d complete, %d stalled, %d from upstream", complete, stalls, streams)
	}
	return ""
}

// sane checks what a member is told.
func sane(answer Assignment, a Announce, size int64) string {
	total := 0
	for _, l := range answer.Leases {
		if total++; l.Start < 0 || l.End > size || l.End >= 0 && l.End <= l.Start {
			return "a lease is out of bounds"
		}
		if l.From == "" && a.Upstream >= Refused {
			return "it can't go upstream"
		}
	}
	switch {
	case len(answer.Neighbours) > degree || len(answer.Holders) > maxHolders:
		return "too many are named"
	case slices.Contains(answer.Holders, a.Member):
		return "it is named to itself"
	case (a.Leaving || a.Complete) && total > 0:
		return "it needs no leases"
	case answer.NoSource && (total > 0 || len(answer.Holders) > 0):
		return "there is a source"
	case answer.Open && a.Complete:
		return "it has everything, and is told of what is open"
	case answer.Again <= 0:
		return "it is not told when to ask again"
	}
	return ""
}

// TestGraph checks that the graph of a large swarm that joined one by one is regular, connected and flat.
func TestGraph(t *testing.T) {
	const n = 600
	for _, zones := range []int{1, 3} {
		tr := NewTracker(TrackerConfig{Rand: rand.New(rand.NewPCG(1, 2))})
		now := time.Unix(0, 0)
		for round := range 3 {
			for i := range n {
				answer := tr.Announce(now, "b", Announce{Member: ID(fmt.Sprint(i)), Zone: fmt.Sprint(i % zones), Size: 1 << 30}, nil)
				far := 0
				for _, o := range answer.Neighbours {
					if o.Zone != fmt.Sprint(i%zones) {
						far++
					}
				}
				if round > 0 && zones > 1 && far < 3 {
					t.Fatalf("%d has %d neighbours in other zones", i, far)
				}
			}
			now = now.Add(time.Second)
		}
		b := tr.blobs[tr.Group("b", 1<<30)]
		for _, m := range b.order {
			if len(m.links) < degree-4 || len(m.links) > degree+2*farLinks {
				t.Errorf("%s has %d links", m.id, len(m.links))
			}
		}
		depth := map[*member]int{b.order[0]: 0}
		queue := []*member{b.order[0]}
		for len(queue) > 0 {
			m := queue[0]
			queue = queue[1:]
			for _, o := range m.links {
				if _, seen := depth[o]; !seen {
					depth[o] = depth[m] + 1
					queue = append(queue, o)
				}
			}
		}
		deepest := 0
		for _, d := range depth {
			deepest = max(deepest, d)
		}
		if len(depth) != n || deepest > 5 {
			t.Errorf("%d zones: %d of %d are connected, the farthest by %d links", zones, len(depth), n, deepest)
		}
	}
}

func TestTrackerBounds(t *testing.T) {
	tr := NewTracker(TrackerConfig{Rand: rand.New(rand.NewPCG(1, 2)), Blobs: 3, Members: 2})
	now := time.Unix(0, 0)
	for i := range 10 {
		now = now.Add(time.Millisecond)
		tr.Announce(now, fmt.Sprint(i), Announce{Member: "a", Size: 10}, nil)
	}
	if len(tr.blobs) != 3 || tr.blobs["9"] == nil || tr.blobs["7"] == nil {
		t.Errorf("%d blobs are kept", len(tr.blobs))
	}
	tr.Announce(now, "9", Announce{Member: "b", Size: 10}, nil)
	if answer := tr.Announce(now, "9", Announce{Member: "c", Size: 10}, nil); !answer.NoSource {
		t.Errorf("one member too many is told %+v", answer)
	}
}

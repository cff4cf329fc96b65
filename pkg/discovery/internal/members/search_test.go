package members

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

// fleet is many tables that know each other as Kademlia's would: all that are near, and a few of the rest.
type fleet struct {
	tables map[peer.ID]*Table
	all    []peer.ID
	down   map[peer.ID]bool
}

func newFleet(n int, rnd *rand.Rand) *fleet {
	f := &fleet{tables: map[peer.ID]*Table{}, down: map[peer.ID]bool{}}
	for i := range n {
		f.tables[id(i)] = newTable(i)
		f.all = append(f.all, id(i))
	}
	for i, table := range f.tables {
		self := wire.PlaceOf(i)
		buckets := map[int]int{}
		for _, j := range rnd.Perm(n) {
			place := wire.PlaceOf(id(j))
			common := self.Common(&place)
			if buckets[common] < 20 {
				buckets[common]++
				table.Heard(someone(j), start)
			}
		}
	}
	return f
}

// search runs one search to its end and gives who answered, in order.
func (f *fleet) search(t *testing.T, from peer.ID, place wire.Place) (answered []peer.ID, s *Search) {
	t.Helper()
	table := f.tables[from]
	s = NewSearch(place)
	for range 50 {
		step := s.Next(table.ClosestIDs(nil, place, s.Want()))
		if step.Phase == Done {
			return answered, s
		}
		for _, to := range step.Ask {
			if f.down[to] {
				table.Failed(to, false, start)
				s.Lost()
				continue
			}
			answered = append(answered, to)
			other := f.tables[to]
			for _, m := range s.Answered(to, false, other.Closer(place, 3, nil)) {
				table.Learn(m.ID, m, start)
			}
		}
	}
	t.Fatal("the search does not end")
	return nil, nil
}

func TestSearchFindsTheClosest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{1, 2, 10, 150, 400} {
		f := newFleet(n, rnd)
		hops := map[int]int{}
		for i := range 300 {
			place := wire.KeyOf("search", fmt.Sprint(n, i)).Place()
			answered, s := f.search(t, f.all[rnd.IntN(n)], place)
			if want := order(f.all, place)[0]; answered[len(answered)-1] != want {
				t.Errorf("%d members: found %s, want %s", n, answered[len(answered)-1], want)
			}
			if !slices.IsSortedFunc(answered, func(a, b peer.ID) int {
				pa, pb := wire.PlaceOf(a), wire.PlaceOf(b)
				if pb.Closer(&pa, &place) {
					return -1
				}
				return 1
			}) {
				t.Errorf("%d members: the distance does not fall: %s", n, answered)
			}
			hops[s.Redirects()]++
		}
		t.Logf("%d members: redirects %v", n, hops)
	}
}

func TestSearchSkipsTheDead(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	f := newFleet(60, rnd)
	for _, i := range rnd.Perm(60)[:12] {
		f.down[id(i)] = true
	}
	var up []peer.ID
	for _, id := range f.all {
		if !f.down[id] {
			up = append(up, id)
		}
	}
	found := 0
	for i := range 300 {
		place := wire.KeyOf("dead", fmt.Sprint(i)).Place()
		answered, _ := f.search(t, up[rnd.IntN(len(up))], place)
		if slices.Contains(answered, order(up, place)[0]) {
			found++
		}
	}
	if found < 297 {
		t.Errorf("only %d of 300 searches asked the closest that is up", found)
	}
}

func TestSearchAsksTheNextTwoWhenFresh(t *testing.T) {
	s := NewSearch(wire.Place{})
	closest := []peer.ID{"a", "b", "c", "d"}
	if step := s.Next(closest); step.Phase != Ask || !slices.Equal(step.Ask, []peer.ID{"a"}) {
		t.Fatalf("first step %+v", step)
	}
	s.Answered("a", true, nil)
	if step := s.Next(closest); step.Phase != Ask || !slices.Equal(step.Ask, []peer.ID{"b", "c"}) {
		t.Fatalf("after a fresh answer %+v", step)
	}
	s.Answered("b", true, nil)
	s.Answered("c", true, nil)
	if step := s.Next(closest); step.Phase != Done {
		t.Fatalf("after the next two %+v", step)
	}
}

func TestSearchGivesUp(t *testing.T) {
	s := NewSearch(wire.Place{})
	asked, routed := 0, 0
	for i := 0; ; i++ {
		step := s.Next([]peer.ID{id(i), id(i + 1), id(i + 2), id(i + 3)})
		if step.Phase == Done {
			break
		}
		if step.Phase == Route {
			routed++
			continue
		}
		asked += len(step.Ask)
		for range step.Ask {
			s.Lost()
		}
	}
	if routed != 1 || asked > 2*maxLost {
		t.Errorf("asked %d, routed %d times", asked, routed)
	}
	if step := NewSearch(wire.Place{}).Next(nil); step.Phase != Done {
		t.Errorf("with nobody to ask: %+v", step)
	}
}

func TestSearchBoundsRedirects(t *testing.T) {
	place := wire.KeyOf("hops", "x").Place()
	var ids []peer.ID
	for i := range 200 {
		ids = append(ids, id(i))
	}
	ids = order(ids, place)
	slices.Reverse(ids)
	s := NewSearch(place)
	asked := 0
	for i := 0; i+1 < len(ids); i++ {
		step := s.Next([]peer.ID{ids[i]})
		if step.Phase == Done {
			break
		}
		asked++
		s.Answered(ids[i], false, []wire.Member{{ID: ids[i+1]}, {ID: ids[0]}})
	}
	if asked != maxHops+1 {
		t.Errorf("asked %d members one after the other", asked)
	}
	if got := s.Answered(ids[9], false, []wire.Member{{ID: ids[8]}}); len(got) != 0 {
		t.Errorf("learned %v, who is further away than who named it", got)
	}
}

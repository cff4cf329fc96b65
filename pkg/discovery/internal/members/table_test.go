package members

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

var start = time.Unix(1_000_000, 0)

func id(i int) peer.ID { return peer.ID(fmt.Sprintf("member-%04d", i)) }

func someone(i int) wire.Member { return wire.Member{ID: id(i), Epoch: 1} }

// teller is who names others.
const teller = peer.ID("teller")

func newTable(self int) *Table {
	return New(Config{Self: someone(self), Max: 4096, Rand: rand.New(rand.NewPCG(1, uint64(self)))})
}

// order sorts identities by distance in the plainest way.
func order(ids []peer.ID, target wire.Place) []peer.ID {
	distance := func(id peer.ID) []byte {
		p := wire.PlaceOf(id)
		for i := range p {
			p[i] ^= target[i]
		}
		return p[:]
	}
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b peer.ID) int { return bytes.Compare(distance(a), distance(b)) })
	return ids
}

func idsOf(members []wire.Member) []peer.ID {
	var ids []peer.ID
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	return ids
}

// model is the table's twin: a map of who is what, and nothing clever.
type model struct {
	state map[peer.ID]status
	fails map[peer.ID]int
	dead  map[peer.ID]bool
}

func TestAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	table := newTable(0)
	m := model{state: map[peer.ID]status{}, fails: map[peer.ID]int{}, dead: map[peer.ID]bool{}}
	now := start
	for step := range 6000 {
		now = now.Add(time.Millisecond) // Too little for a tombstone to fade.
		who := 1 + rnd.IntN(60)
		id := id(who)
		s, known := m.state[id]
		switch rnd.IntN(6) {
		case 0:
			table.Learn(teller, someone(who), now)
			if !known && !m.dead[id] {
				m.state[id] = learned
			}
		case 1:
			table.Heard(someone(who), now)
			m.state[id], m.fails[id] = live, 0
			delete(m.dead, id)
		case 2:
			table.Alive(id, now)
			if known && s != live {
				m.state[id], m.fails[id] = live, 0
			}
		case 3:
			table.Disconnected(id, false, now)
			if known {
				m.state[id] = suspect
			}
		case 4, 5:
			contact := rnd.IntN(2) == 0
			table.Failed(id, contact, now)
			if known && (s != suspect || contact) {
				m.state[id] = suspect
				if m.fails[id]++; m.fails[id] >= maxFails {
					delete(m.state, id)
					delete(m.fails, id)
					m.dead[id] = true
				}
			}
		}
		if step%10 == 0 {
			m.check(t, table, wire.KeyOf("step", fmt.Sprint(step)).Place())
		}
	}
}

func (m model) check(t *testing.T, table *Table, place wire.Place) {
	t.Helper()
	candidates, alive := []peer.ID{id(0)}, []peer.ID{id(0)}
	for id, s := range m.state {
		if s == live || s == learned {
			candidates = append(candidates, id)
		}
		if s == live {
			alive = append(alive, id)
		}
		if table.Dead(id) != (s == suspect) || table.Live(id) != (s == live) {
			t.Fatalf("%s is %d in the model", id, s)
		}
	}
	candidates, alive = order(candidates, place), order(alive, place)
	for _, n := range []int{1, 3, 20, 100} {
		want := candidates[:min(n, len(candidates))]
		if got := idsOf(table.Closest(place, n)); !slices.Equal(got, want) {
			t.Fatalf("closest %d are %q, want %q", n, got, want)
		}
		if got := table.ClosestIDs(nil, place, n); !slices.Equal(got, want) {
			t.Fatalf("closest %d identities are %q, want %q", n, got, want)
		}
	}
	closer := alive[:slices.Index(alive, id(0))]
	if got := idsOf(table.Closer(place, 3, nil)); !slices.Equal(got, closer[:min(3, len(closer))]) {
		t.Fatalf("closer than self are %q, want %q", got, closer)
	}
	if len(closer) > 0 {
		rest := closer[1:]
		if got := idsOf(table.Closer(place, 3, closer[:1])); !slices.Equal(got, rest[:min(3, len(rest))]) {
			t.Fatalf("closer than self, but one, are %q, want %q", got, rest)
		}
	}
}

func TestSuspectsAreContactedWithBackOff(t *testing.T) {
	table := newTable(0)
	table.Heard(someone(1), start)
	if due := table.Due(start, 9); len(due) != 0 {
		t.Fatalf("a live member is due: %v", due)
	}
	table.Disconnected(id(1), false, start)
	now, last := start, start
	var waits []time.Duration
	for now.Sub(start) < time.Minute {
		for _, m := range table.Due(now, 9) {
			if again := table.Due(now, 9); len(again) != 0 {
				t.Fatalf("%s is due twice", again[0].ID)
			}
			waits = append(waits, now.Sub(last))
			last = now
			table.Failed(m.ID, true, now)
		}
		now = now.Add(100 * time.Millisecond)
	}
	want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
	if !slices.Equal(waits, want) {
		t.Errorf("contacted after %v, want %v", waits, want)
	}
	if _, ok := table.entries[id(1)]; ok {
		t.Error("a member that never answered is still known")
	}
	if table.Learn(teller, someone(1), now) {
		t.Error("hearsay brought back who is gone")
	}
	if m := someone(1); !table.Learn(teller, wire.Member{ID: m.ID, Epoch: 2}, now) {
		t.Error("a new life of who is gone was ignored")
	}
}

func TestGoodbye(t *testing.T) {
	table := newTable(0)
	table.Heard(someone(1), start)
	if table.Goodbye(id(1), 0, start) {
		t.Error("an earlier life's goodbye ended the present one")
	}
	if !table.Goodbye(id(1), 1, start) || !table.Dead(id(1)) {
		t.Error("goodbye was not taken in")
	}
	if table.Heard(someone(1), start) || table.Learn(teller, someone(1), start) || table.Live(id(1)) {
		t.Error("a late message brought back who said goodbye")
	}
	if !table.Heard(wire.Member{ID: id(1), Epoch: 2}, start) || !table.Live(id(1)) {
		t.Error("the next life is not believed")
	}
}

func TestReportStandsForAWhile(t *testing.T) {
	table := newTable(0)
	table.Heard(someone(1), start)
	table.Report(id(1), start)
	table.Heard(someone(1), start.Add(time.Second))
	table.Alive(id(1), start.Add(time.Second))
	if !table.Dead(id(1)) {
		t.Error("a sign of life undid a report")
	}
	if due := table.Due(start.Add(reportFor-1), 9); len(due) != 0 {
		t.Errorf("due early: %v", due)
	}
	if due := table.Due(start.Add(reportFor), 9); len(due) != 1 {
		t.Errorf("due after the report: %v", due)
	}
	table.Heard(someone(1), start.Add(reportFor))
	if !table.Live(id(1)) {
		t.Error("the member did not come back")
	}
}

func TestTrimmedConnections(t *testing.T) {
	table := newTable(0)
	for i := 1; i <= 100; i++ {
		table.Heard(someone(i), start)
	}
	near := order(idsOf(table.Members()), wire.PlaceOf(id(0)))
	table.Disconnected(near[0], true, start)
	table.Disconnected(near[99], true, start)
	if !table.Dead(near[0]) {
		t.Error("a neighbour's loss is taken lightly")
	}
	if _, ok := table.Get(near[99]); !ok || table.Live(near[99]) {
		t.Error("whose connection was trimmed should be a candidate, but not be vouched for")
	}
}

func TestNeighboursAreContacted(t *testing.T) {
	table := newTable(0)
	var all []peer.ID
	for i := 1; i <= 100; i++ {
		table.Learn(teller, someone(i), start)
		all = append(all, id(i))
	}
	near := order(all, wire.PlaceOf(id(0)))[:Neighbours]
	self := wire.PlaceOf(id(0))
	var first, later []peer.ID
	for _, id := range near {
		if place := wire.PlaceOf(id); self.Compare(&place) < 0 {
			first = append(first, id)
		} else {
			later = append(later, id)
		}
	}
	for _, test := range []struct {
		at   time.Time
		want []peer.ID
	}{{start, first}, {start.Add(courtesy), later}} {
		got := idsOf(table.Due(test.at, 100))
		slices.Sort(got)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("contacts %q, want the neighbours %q", got, test.want)
		}
	}
}

func TestStrangersSayHello(t *testing.T) {
	table := newTable(0)
	table.Connected(id(1), false, start)
	if due := table.Due(start, 9); len(due) != 0 {
		t.Errorf("who was called contacts the caller: %v", due)
	}
	table.Connected(id(2), true, start)
	if due := idsOf(table.Due(start, 9)); !slices.Equal(due, []peer.ID{id(2)}) {
		t.Errorf("due are %q", due)
	}
	if len(table.Members()) != 0 {
		t.Error("a stranger is a member")
	}
	if !table.Failed(id(2), true, start) {
		t.Error("a stranger that did not answer is kept")
	}
}

func TestFresh(t *testing.T) {
	table := newTable(0)
	if table.Fresh(start) {
		t.Error("a lone member is fresh")
	}
	table.Heard(someone(1), start)
	if !table.Fresh(start.Add(freshFor-1)) || table.Fresh(start.Add(freshFor)) {
		t.Error("fresh for the wrong time")
	}
}

func TestBounded(t *testing.T) {
	table := New(Config{Self: someone(0), Max: 12, Rand: rand.New(rand.NewPCG(1, 1))})
	for i := 1; i < 50; i++ {
		table.Learn("liar", someone(i), start)
	}
	if n := len(table.Members()); n != 3 {
		t.Errorf("%d members are known by one member's word", n)
	}
	for i := 1; i < 50; i++ {
		table.Learn(id(100+i), someone(i), start)
	}
	if n := len(table.Members()); n != 12 {
		t.Errorf("%d members are known by hearsay", n)
	}
	for i := 200; i < 250; i++ {
		table.Heard(someone(i), start)
	}
	if n := len(table.Members()); n != 24 {
		t.Errorf("%d members are known", n)
	}
	// Who has spoken itself takes none of the share of who named it, and who is gone neither.
	for _, m := range table.Members() {
		table.Heard(m, start)
	}
	if len(table.told) != 0 {
		t.Errorf("shares are taken by nobody: %v", table.told)
	}
}

// TestNobodySpeaksForTheLiving has a member lie about another one that is live: that one stays what it said itself, and
// is asked.
func TestNobodySpeaksForTheLiving(t *testing.T) {
	table := newTable(0)
	truth := someone(1)
	table.Heard(truth, start)
	lie := wire.Member{ID: truth.ID, Zone: "elsewhere", Epoch: truth.Epoch + 1_000_000}
	table.Learn("liar", lie, start)
	if m, alive := table.Get(truth.ID); !alive || !m.Equal(truth) || !table.Live(truth.ID) {
		t.Errorf("a lie about it made of a live member %+v, alive: %v", m, alive)
	}
	if due := table.Due(start, 9); len(due) != 1 || !due[0].Equal(truth) {
		t.Errorf("due is %v, want the member itself", due)
	}
	table.Heard(truth, start)
	table.Disconnected(truth.ID, false, start)
	if table.Live(truth.ID) || !table.Dead(truth.ID) {
		t.Error("the lie outlasted what the member said")
	}
	// Where the life that is known does not answer, the other one is tried.
	table.Heard(truth, start)
	table.Learn("friend", lie, start)
	table.Failed(truth.ID, true, start)
	if due := table.Due(start, 9); len(due) != 1 || !due[0].Equal(lie) {
		t.Errorf("due is %v, want the later life", due)
	}
}

func TestGreeting(t *testing.T) {
	table := newTable(0)
	for i := 1; i <= 300; i++ {
		table.Heard(someone(i), start)
	}
	counts := map[peer.ID]int{}
	for range 500 {
		named := idsOf(table.Greeting(id(7)))
		if slices.Contains(named, id(7)) || slices.Contains(named, id(0)) || len(named) > greeted {
			t.Fatalf("named %q", named)
		}
		for _, id := range named {
			counts[id]++
		}
	}
	for _, id := range order(idsOf(table.Members()), wire.PlaceOf(id(7)))[1 : 1+Neighbours] {
		if counts[id] != 500 {
			t.Errorf("neighbour %s was named %d times of 500", id, counts[id])
		}
	}
	// The other 279 share 500 times 12 places: 21.5 each.
	for id, n := range counts {
		if n < 5 || n > 60 && n != 500 {
			t.Errorf("%s was named %d times", id, n)
		}
	}
}

func BenchmarkClosest(b *testing.B) {
	table := newTable(0)
	for i := 1; i < 1000; i++ {
		table.Heard(someone(i), start)
	}
	var ids []peer.ID
	for i := range b.N {
		place := wire.KeyOf("bench", fmt.Sprint(i%64)).Place()
		ids = table.ClosestIDs(ids[:0], place, 3)
	}
}

package bound_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/kioo-dev/kioo/pkg/bound"
)

func TestSource(t *testing.T) {
	same := [][]string{
		{"10.0.0.1", "::ffff:10.0.0.1"},
		{"10.0.0.2"},
		{"127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.9"},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9"},
		{"2001:db8:1:3::1"},
		{"fe80::1%eth0", "fe80::2%eth1"},
	}
	seen := map[bound.Source]int{}
	for i, addrs := range same {
		for _, a := range addrs {
			s := bound.SourceOf(netip.MustParseAddr(a))
			if first, ok := seen[s]; ok && first != i {
				t.Errorf("%s is the same source as %v", a, same[first])
			}
			seen[s] = i
			if s.Loopback() != (i == 2) {
				t.Errorf("%s: loopback is %v", a, s.Loopback())
			}
		}
	}
	if len(seen) != len(same) {
		t.Errorf("%d sources, want %d", len(seen), len(same))
	}
	unix := bound.SourceAt(&net.UnixAddr{Name: "@", Net: "unix"})
	if unix.Loopback() || unix != bound.SourceAt(nil) || unix != bound.SourceOf(netip.Addr{}) {
		t.Error("what has no address of IP is not one source of its own")
	}
	if got := bound.SourceAt(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 5}); got != bound.SourceOf(netip.MustParseAddr("10.0.0.1")) {
		t.Errorf("%v", got)
	}
}

// step is one event of a script: what happens to which connection, and who must go for it.
type step struct {
	do, key string
	from    string
	gone    string
}

func source(name string) bound.Source {
	return bound.SourceOf(netip.AddrFrom4([4]byte{10, 0, 0, name[0]}))
}

func TestScripts(t *testing.T) {
	for name, tt := range map[string]struct {
		max, per int
		stalled  []string // The worst first.
		steps    []step
	}{
		"the longest quiet goes": {max: 2, steps: []step{
			{"open", "a1", "a", ""}, {"open", "a2", "a", ""}, {"busy", "a1", "", ""}, {"quiet", "a1", "", ""},
			{"open", "a3", "a", "a2"}, {"open", "a4", "a", "a1"},
		}},
		"nobody is quiet, so the new one goes": {max: 2, steps: []step{
			{"open", "a1", "a", ""}, {"open", "a2", "a", ""}, {"busy", "a1", "", ""}, {"busy", "a2", "", ""}, {"open", "a3", "a", "a3"},
		}},
		"whoever has most loses, though others are quiet for longer": {max: 3, steps: []step{
			{"open", "b1", "b", ""}, {"open", "a1", "a", ""}, {"open", "a2", "a", ""}, {"open", "c1", "c", "a1"},
			{"open", "a3", "a", "a2"}, // Which has most with it.
		}},
		"one that is busy goes for a source that has fewer": {max: 2, steps: []step{
			{"open", "a1", "a", ""}, {"open", "a2", "a", ""}, {"busy", "a2", "", ""}, {"busy", "a1", "", ""},
			{"open", "b1", "b", "a2"}, {"busy", "b1", "", ""}, {"open", "a3", "a", "a3"}, {"open", "c1", "c", "c1"},
		}},
		"one who does not read goes among equals": {max: 2, stalled: []string{"b1", "a1"}, steps: []step{
			{"open", "a1", "a", ""}, {"open", "b1", "b", ""}, {"busy", "a1", "", ""}, {"busy", "b1", "", ""}, {"open", "c1", "c", "b1"},
			{"open", "c2", "c", "c1"}, {"busy", "c2", "", ""}, {"open", "c3", "c", "c3"}, // a1 has fewer.
		}},
		"a source has its share": {max: 10, per: 2, stalled: []string{"a4"}, steps: []step{
			{"open", "a1", "a", ""}, {"open", "a2", "a", ""}, {"open", "a3", "a", "a1"}, {"busy", "a2", "", ""}, {"open", "a4", "a", "a3"},
			{"busy", "a4", "", ""}, {"open", "a5", "a", "a4"}, {"busy", "a5", "", ""}, {"open", "a6", "a", "a6"}, {"open", "b1", "b", ""},
		}},
		"what is closed is no more": {max: 1, steps: []step{
			{"open", "a1", "a", ""}, {"close", "a1", "", ""}, {"busy", "a1", "", ""}, {"quiet", "a1", "", ""}, {"close", "a1", "", ""},
			{"open", "a2", "a", ""},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := bound.New(bound.Config[string]{Max: tt.max, PerSource: tt.per, Stalled: func(k string) int64 {
				i := slices.Index(tt.stalled, k)
				if i < 0 {
					return 0
				}
				return int64(len(tt.stalled) - i)
			}})
			for i, st := range tt.steps {
				gone := ""
				switch st.do {
				case "open":
					gone, _ = s.Open(st.key, source(st.from))
				case "busy":
					s.Busy(st.key)
				case "quiet":
					s.Quiet(st.key)
				case "close":
					s.Close(st.key)
				}
				if gone != st.gone {
					t.Fatalf("step %d, %v: %q goes", i, st, gone)
				}
			}
		})
	}
}

// model is the same decision, made by looking at everything.
type model struct {
	max, per int
	behind   map[int]int64
	all      []*conn // In the order in which they became what they are.
}

type conn struct {
	key   int
	from  bound.Source
	quiet bool
}

func (m *model) count(from bound.Source) (n int) {
	for _, c := range m.all {
		if c.from == from {
			n++
		}
	}
	return n
}

func (m *model) find(key int) *conn {
	for _, c := range m.all {
		if c.key == key {
			return c
		}
	}
	return nil
}

func (m *model) drop(key int) {
	m.all = slices.DeleteFunc(m.all, func(c *conn) bool { return c.key == key })
}

func (m *model) turn(key int, quiet bool) {
	if c := m.find(key); c != nil && c.quiet != quiet {
		m.drop(key)
		c.quiet = quiet
		m.all = append(m.all, c)
	}
}

func (m *model) open(key int, from bound.Source) int {
	fresh := &conn{key, from, true}
	m.all = append(m.all, fresh)
	ours := m.count(from)
	most, eligible := 0, func(*conn) bool { return true }
	switch {
	case m.per > 0 && ours > m.per:
		most, eligible = ours, func(c *conn) bool { return c.from == from }
	case len(m.all) > m.max:
		for _, c := range m.all {
			most = max(most, m.count(c.from))
		}
	default:
		return 0
	}
	gone := fresh
	if first := m.first(func(c *conn) bool { return eligible(c) && c.quiet && m.count(c.from) == most }); first != nil && first != fresh {
		gone = first
	} else if worst := m.worst(func(c *conn) bool { return eligible(c) && !c.quiet && m.count(c.from) >= ours }); worst != nil {
		gone = worst
	} else if most > ours {
		gone = m.first(func(c *conn) bool { return m.count(c.from) == most })
	}
	m.drop(gone.key)
	return gone.key
}

func (m *model) first(is func(*conn) bool) *conn {
	for _, c := range m.all {
		if is(c) {
			return c
		}
	}
	return nil
}

func (m *model) worst(is func(*conn) bool) (most *conn) {
	var worst int64
	for _, c := range m.all {
		if b := m.behind[c.key]; is(c) && b > worst {
			most, worst = c, b
		}
	}
	return most
}

// TestModel compares random events with the model. Where several sources have most and nobody there is quiet, either
// may lose one.
func TestModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &model{max: 1 + r.IntN(12), behind: map[int]int64{}}
		if r.IntN(2) == 0 {
			m.per = 1 + r.IntN(m.max)
		}
		s := bound.New(bound.Config[int]{Max: m.max, PerSource: m.per, Stalled: func(k int) int64 { return m.behind[k] }})
		sources, opened := 1+r.IntN(6), 0
		for range 2000 {
			key := max(1, opened-r.IntN(16))
			switch r.IntN(6) {
			case 0, 1:
				opened++
				from := source(fmt.Sprint(r.IntN(sources)))
				was := slices.Clone(m.all)
				gone, _ := s.Open(opened, from)
				want := m.open(opened, from)
				if gone != want {
					m.all = append(was, &conn{opened, from, true})
					if !m.equal(want, gone) {
						t.Fatalf("seed %d: %d goes, the model wants %d", seed, gone, want)
					}
					m.drop(gone)
				}
			case 2:
				s.Busy(key)
				m.turn(key, false)
			case 3:
				s.Quiet(key)
				m.turn(key, true)
			case 4:
				s.Close(key)
				m.drop(key)
			case 5:
				m.behind[key] = int64(r.IntN(3))
			}
			if s.Len() != len(m.all) || s.Len() > m.max {
				t.Fatalf("seed %d: %d connections, the model has %d of at most %d", seed, s.Len(), len(m.all), m.max)
			}
		}
	}
}

// equal tells whether two busy connections that nobody waits for may go for each other: of sources with equally many.
func (m *model) equal(a, b int) bool {
	x, y := m.find(a), m.find(b)
	return x != nil && y != nil && !x.quiet && !y.quiet && m.behind[a] == 0 && m.behind[b] == 0 && x.from != y.from &&
		m.count(x.from) == m.count(y.from)
}

// TestNoHostage has strangers from fewer sources than there are connections do what they like: whoever comes from a
// source of its own gets in, and stays until he leaves.
func TestNoHostage(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		const most = 16
		s := bound.New(bound.Config[int]{Max: most})
		honest, next, lost := bound.SourceOf(netip.MustParseAddr("192.0.2.1")), 1, 0
		gone := func(k int, ok bool) {
			if ok && k == -1 {
				lost++
			}
		}
		for range 1000 {
			switch r.IntN(3) {
			case 0, 1:
				gone(s.Open(next, source(fmt.Sprint(r.IntN(9)))))
				next++
			case 2:
				s.Busy(max(1, next-r.IntN(2*most)))
			}
			if r.IntN(10) == 0 {
				s.Close(-1)
				gone(s.Open(-1, honest))
				if r.IntN(2) == 0 {
					s.Busy(-1)
				}
			}
		}
		if lost > 0 {
			t.Errorf("seed %d: he was closed %d times", seed, lost)
		}
	}
}

// BenchmarkFlood opens connections of ever new sources beyond the bound.
func BenchmarkFlood(b *testing.B) {
	s := bound.New(bound.Config[int]{Max: 2048})
	for i := 0; b.Loop(); i++ {
		s.Open(i, bound.SourceOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
}

func TestAddressAndNetwork(t *testing.T) {
	at := netip.MustParseAddr
	for _, test := range []struct {
		a, b           string
		address, other bool
	}{
		{"10.0.0.1", "::ffff:10.0.0.1", true, true},
		{"10.0.0.1", "10.0.0.2", false, false},
		{"127.0.0.1", "127.0.0.2", false, false},
		{"fd00::1", "fd00::2", false, true},
		{"fd00::1%eth0", "fd00::1", true, true},
		{"fd00::1", "fd00:0:0:1::1", false, false},
	} {
		if got := bound.Address(at(test.a)) == bound.Address(at(test.b)); got != test.address {
			t.Errorf("%s and %s are one address: %v", test.a, test.b, got)
		}
		if got := bound.Network(at(test.a)) == bound.Network(at(test.b)); got != test.other {
			t.Errorf("%s and %s are one network: %v", test.a, test.b, got)
		}
	}
}

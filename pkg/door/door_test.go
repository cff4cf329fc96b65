package door

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// closer is a connection that notes its end.
type closer struct{ closed bool }

func (c *closer) Close() error { c.closed = true; return nil }

func from(addr string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1))
}

func TestStandings(t *testing.T) {
	pressed := 0
	l := New(Config{
		Strangers: Share{Max: 3, PerSource: 2}, Listed: Share{Max: 3, PerSource: 2}, Members: Share{Max: 3, PerSource: 2},
		Lists: func(a netip.Addr) bool {
			return a == netip.MustParseAddr("10.0.0.1") || a == netip.MustParseAddr("fd00::1")
		},
		Pressed: func() { pressed++ },
	})
	conns := map[string][]*closer{}
	tickets := map[string][]*Ticket{}
	open := func(addrs ...string) {
		for _, a := range addrs {
			c := &closer{}
			conns[a] = append(conns[a], c)
			tickets[a] = append(tickets[a], l.Admit(c, from(a)))
		}
	}
	check := func(what, addr string, want ...bool) {
		t.Helper()
		var got []bool
		for _, c := range conns[addr] {
			got = append(got, c.closed)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: closed of %s are %v, want %v", what, addr, got, want)
		}
	}
	open("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")
	check("strangers among themselves", "10.0.0.1", false)
	check("strangers among themselves", "10.0.0.2", true)
	check("strangers among themselves", "10.0.0.3", true)
	if pressed != 2 {
		t.Errorf("pressed %d times", pressed)
	}
	open("10.0.0.1", "10.0.0.1")
	check("at a listed address they share its places", "10.0.0.1", true, false, false)
	check("at a listed address they share its places", "10.0.0.4", false)
	// A listed IPv6 address is by itself; strangers of its network share with each other.
	open("fd00::1", "fd00::2", "fd00::3", "fd00::4")
	check("IPv6", "fd00::1", false)
	check("IPv6", "fd00::2", true)
	check("IPv6", "fd00::4", false)

	if tickets["10.0.0.1"][0].Prove() {
		t.Error("who was displaced is a member")
	}
	if !tickets["10.0.0.1"][1].Prove() {
		t.Error("a member is refused")
	}
	open("10.0.0.1", "10.0.0.1", "10.0.0.1")
	check("who is proven is no more among them", "10.0.0.1", true, false, true, true, false, false)
	tickets["10.0.0.1"][4].Prove()
	tickets["10.0.0.1"][5].Prove()
	check("members have a bound too, each source its own", "10.0.0.1", true, true, true, true, false, false)
	for range 2 {
		tickets["10.0.0.1"][4].Leave()
	}
	if l.len(member) != 1 {
		t.Errorf("%d members, want 1", l.len(member))
	}
}

// TestWhoSpeaksStays has the longest silent connection go, not the oldest.
func TestWhoSpeaksStays(t *testing.T) {
	l := New(Config{Strangers: Share{Max: 2}})
	var a, b, c closer
	first := l.Admit(&a, from("10.0.0.1"))
	l.Admit(&b, from("10.0.0.2"))
	first.Read()
	l.Admit(&c, from("10.0.0.3"))
	if a.closed || !b.closed || c.closed {
		t.Errorf("closed are %v, %v, %v", a.closed, b.closed, c.closed)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := New(Config{Strangers: Share{Max: 1}})
	l.Register(reg, "kioo_test")
	for i := range 3 {
		l.Admit(&closer{}, from(fmt.Sprint("10.0.0.", i)))
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kioo_test_connections_displaced_total Inbound connections that were closed for others, by what they were counted as.
# TYPE kioo_test_connections_displaced_total counter
kioo_test_connections_displaced_total{from="listed"} 0
kioo_test_connections_displaced_total{from="member"} 0
kioo_test_connections_displaced_total{from="stranger"} 2
`), "kioo_test_connections_displaced_total"); err != nil {
		t.Error(err)
	}
}

func BenchmarkAdmitUnderAttack(b *testing.B) {
	l := New(Config{Strangers: Share{Max: 512, PerSource: 64}})
	for i := range b.N {
		l.Admit(&closer{}, &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: 1})
	}
}

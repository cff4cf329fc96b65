package discovery

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func blob(s string) Key { return DigestKey(digest.FromString(s)) }

func hold(keys ...Key) []Entry {
	var entries []Entry
	for _, k := range keys {
		entries = append(entries, Entry{Key: k})
	}
	return entries
}

func TestFleetFindsWhatIsHeld(t *testing.T) {
	fleet := startFleet(t, 8, func(i int, c *Config) { c.Zone = "zone-" + string(rune('a'+i%2)) })
	tag := Entry{Key: TagKey("docker.io/library/nginx:1.27"), Digest: digest.FromString("m"), Confirmed: time.Unix(5, 0)}
	fleet[3].Set(append(hold(blob("a")), tag), nil)
	fleet[5].Set(hold(blob("a"), blob("b")), nil)
	settle(t, fleet)
	allSee(t, fleet, blob("a"), fleet[3], fleet[5])
	allSee(t, fleet, blob("b"), fleet[5])
	allSee(t, fleet, blob("c"))
	var found []Provider
	eventually(t, "the tag is found", func() bool {
		var err error
		if found, err = fleet[0].Providers(t.Context(), tag.Key); err != nil {
			t.Fatal(err)
		}
		return len(found) > 0
	})
	if len(found) != 1 {
		t.Fatalf("providers of the tag: %v", found)
	}
	if p := found[0]; p.Digest != tag.Digest || !p.Confirmed.Equal(tag.Confirmed) || !p.Member.Equal(fleet[3].Self()) {
		t.Errorf("tag came as %+v, want %+v of %+v", p, tag, fleet[3].Self())
	}
	if m := found[0].Member; m.PeerAPI[0] != "10.0.0.4:28501" || m.Zone != "zone-b" {
		t.Errorf("member says of itself %+v", m)
	}
	fleet[5].Set(nil, []Key{blob("a")})
	allSee(t, fleet, blob("a"), fleet[3])
}

func TestAllAgreeOnTheCoordinator(t *testing.T) {
	fleet := startFleet(t, 8, nil)
	settle(t, fleet)
	for i := range 20 {
		key := blob(fmt.Sprint("coordinated", i))
		// On a machine that stops for a while they pass each other over for a moment.
		eventually(t, fmt.Sprint("all agree on who coordinates ", i), func() bool {
			want := fleet[0].Nearest(key, 3)
			return len(want) == 3 && !slices.ContainsFunc(fleet, func(m *testMember) bool {
				return m.Nearest(key, 1)[0].ID != want[0].ID
			})
		})
	}
}

func TestLoneMember(t *testing.T) {
	m := startMember(t, nil)
	m.Set(hold(blob("a")), nil)
	began := time.Now()
	if ids := m.holders(t, blob("a")); len(ids) != 0 {
		t.Errorf("found %v", ids)
	}
	if c := m.Nearest(blob("a"), 1)[0]; c.ID != m.Self().ID {
		t.Errorf("tracker is %s", c.ID)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAnswersWithoutRun(t *testing.T) {
	d, err := New(Config{Keys: [][]byte{clusterKey(1)}, Listen: loopback()})
	if err != nil {
		t.Fatal(err)
	}
	d.Set(hold(blob("a")), nil)
	d.ReportDead("nobody")
	if found, err := d.Providers(t.Context(), blob("a")); err != nil || len(found) != 0 {
		t.Errorf("providers are %v, %v", found, err)
	}
}

func TestGoodbyeIsHeard(t *testing.T) {
	fleet := startFleet(t, 5, nil)
	fleet[2].Set(hold(blob("a")), nil)
	settle(t, fleet)
	allSee(t, fleet, blob("a"), fleet[2])
	fleet[2].leave(t)
	rest := append(fleet[:2:2], fleet[3:]...)
	for _, m := range rest {
		if slices.ContainsFunc(m.Members(), func(o Member) bool { return o.ID == fleet[2].Self().ID }) {
			t.Errorf("%s still counts who said goodbye", m.Self().ID)
		}
		if ids := m.holders(t, blob("a")); len(ids) != 0 {
			t.Errorf("%s still finds who said goodbye", m.Self().ID)
		}
	}
}

func TestKilledMembersAreSkipped(t *testing.T) {
	fleet := startFleet(t, 10, nil)
	var keys []Key
	for i := range 40 {
		keys = append(keys, blob(fmt.Sprint("k", i)))
	}
	fleet[0].Set(hold(keys...), nil)
	fleet[9].Set(hold(keys...), nil)
	settle(t, fleet)
	fleet[8].kill(t)
	fleet[9].kill(t)
	rest := fleet[:8]
	for _, k := range keys {
		allSee(t, rest, k, fleet[0])
	}
	eventually(t, "the dead are out of the routing", func() bool {
		return !slices.ContainsFunc(rest, func(m *testMember) bool {
			rt := m.node.dht.RoutingTable()
			return rt.Find(fleet[8].Self().ID) != "" || rt.Find(fleet[9].Self().ID) != ""
		})
	})
}

func TestReportedMembersAreSkippedAtOnce(t *testing.T) {
	fleet := startFleet(t, 5, nil)
	settle(t, fleet)
	// Who reports neither coordinates the key nor holds it: what it reports is for itself alone.
	key := keyOf(t, fleet[0], fleet[4])
	fleet[1].Set(hold(key), nil)
	fleet[2].Set(hold(key), nil)
	allSee(t, fleet, key, fleet[1], fleet[2])
	fleet[0].ReportDead(fleet[1].Self().ID)
	allSee(t, fleet[:1], key, fleet[2])
	allSee(t, fleet[3:4], key, fleet[1], fleet[2])
	// Who coordinates a key and has reason to believe that a holder is dead names it to nobody.
	fleet[4].ReportDead(fleet[1].Self().ID)
	allSee(t, fleet[3:4], key, fleet[2])
}

// keyOf gives a key that a member coordinates.
func keyOf(t *testing.T, asked, tracker *testMember) Key {
	t.Helper()
	for i := range 1000 {
		key := blob(fmt.Sprint("candidate", i))
		if asked.Nearest(key, 1)[0].ID == tracker.Self().ID {
			return key
		}
	}
	t.Fatal("a member coordinates nothing")
	return Key{}
}

// TestBlackHoledMember has a member whose network swallows everything: no connection breaks.
func TestBlackHoledMember(t *testing.T) {
	fleet := startFleet(t, 6, nil)
	hole := fleet[5]
	// It holds no lock and refuses nothing; it just never answers again.
	block := make(chan struct{})
	t.Cleanup(func() { close(block) })
	var keys []Key
	for i := range 30 {
		keys = append(keys, blob(fmt.Sprint("k", i)))
	}
	fleet[0].Set(hold(keys...), nil)
	settle(t, fleet)
	hole.node.host.SetStreamHandler(recordsProtocol, func(s network.Stream) { <-block; _ = s.Reset() })
	for _, m := range fleet[:5] {
		m.client.drop(hole.Self().ID) // Streams from before would still be answered.
	}
	slow := 0
	for _, k := range keys {
		began := time.Now()
		if ids := fleet[1].holders(t, k); len(ids) != 1 {
			t.Errorf("found %v", ids)
		}
		if took := time.Since(began); took > findTimeout {
			slow++
		}
	}
	// It is one, but where the machine stops for a while.
	if slow > len(keys)/3 {
		t.Errorf("%d of %d look-ups waited for a silent member", slow, len(keys))
	}
}

func TestStrangersStayOut(t *testing.T) {
	fleet := startFleet(t, 2, nil)
	stranger := startMember(t, func(c *Config) {
		c.Keys = [][]byte{clusterKey(9)}
		c.Bootstrap = Static(fleet[0].Self().Addrs)
	})
	settle(t, fleet)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if id, err := askIdentity(ctx, stranger.keys, fleet[0].Self().Addrs[0]); err == nil {
		t.Errorf("a stranger learned that %s listens", id)
	}
	if err := stranger.hello(ctx, fleet[0].Self()); err == nil {
		t.Error("a stranger who knows an identity connected")
	}
	if err := fleet[0].hello(ctx, stranger.Self()); err == nil {
		t.Error("a member connected to a stranger")
	}
	// With the name of the cluster's handshake but not its key, a stranger fails in the handshake itself.
	forged := stranger.keys[0]
	forged.asks = &handshake{SessionTransport: mustSession(t, stranger, fleet[0].keys[0].asks.ID()), asks: true}
	if id, err := askIdentity(ctx, []security{forged}, fleet[0].Self().Addrs[0]); err == nil {
		t.Errorf("a forged handshake met %s", id)
	}
	if n := len(fleet[0].node.host.Network().Peers()); n != 1 {
		t.Errorf("a member is connected to %d others", n)
	}
}

func TestKeyRotation(t *testing.T) {
	before := startMember(t, func(c *Config) { c.Keys = [][]byte{clusterKey(1)} })
	during := startMember(t, func(c *Config) {
		c.Keys = [][]byte{clusterKey(2), clusterKey(1)}
		c.Bootstrap = Static(before.Self().Addrs)
	})
	settle(t, []*testMember{before, during})
	after := startMember(t, func(c *Config) {
		c.Keys = [][]byte{clusterKey(2)}
		c.Bootstrap = Static(during.Self().Addrs)
	})
	eventually(t, "members with the old and the new key know the one with both", func() bool {
		ms := during.Members()
		return len(ms) == 2 && slices.ContainsFunc(after.Members(), func(m Member) bool { return m.ID == during.Self().ID })
	})
}

func TestIslandsMerge(t *testing.T) {
	west := startFleet(t, 3, nil)
	east := startFleet(t, 3, nil)
	west[1].Set(hold(blob("w")), nil)
	east[1].Set(hold(blob("e")), nil)
	settle(t, west)
	settle(t, east)
	bridge := startMember(t, func(c *Config) {
		c.Bootstrap = Combined{Static(west[0].Self().Addrs), Static(east[0].Self().Addrs)}
	})
	all := append(append(west, east...), bridge)
	settle(t, all)
	allSee(t, all, blob("w"), west[1])
	allSee(t, all, blob("e"), east[1])
}

func TestIPv6AndBoth(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here: ", err)
	} else {
		l.Close()
	}
	six := netip.MustParseAddrPort("[::1]:0")
	both := startMember(t, func(c *Config) { c.Listen = append(c.Listen, six) })
	fleet := []*testMember{both}
	if addrs := both.Self().Addrs; len(addrs) != 2 || addrs[0].Addr() == addrs[1].Addr() {
		t.Fatalf("listens on %v", addrs)
	}
	for range 12 { // More than libp2p's own limits allow from one IPv6 network.
		fleet = append(fleet, startMember(t, func(c *Config) {
			c.Listen = []netip.AddrPort{six}
			c.Bootstrap = Static(both.Self().Addrs)
		}))
	}
	settle(t, fleet)
	fleet[3].Set(hold(blob("six")), nil)
	allSee(t, fleet, blob("six"), fleet[3])
}

func TestRestartWithNewAddresses(t *testing.T) {
	dir := t.TempDir()
	fleet := startFleet(t, 4, func(i int, c *Config) {
		if i == 3 {
			c.DataDir = dir
		}
	})
	old := fleet[3]
	old.Set(hold(blob("before")), nil)
	settle(t, fleet)
	old.kill(t)
	again := startMember(t, func(c *Config) {
		c.DataDir = dir
		c.PeerAPI = []string{"10.9.9.9:1"}
		c.Zone = "elsewhere"
		c.Bootstrap = Static(fleet[0].Self().Addrs)
	})
	if again.Self().ID != old.Self().ID {
		t.Fatal("the identity did not last")
	}
	again.Set(hold(blob("after")), nil)
	fleet[3] = again
	settle(t, fleet)
	allSee(t, fleet, blob("after"), again)
	allSee(t, fleet, blob("before")) // What the earlier life announced does not hold.
	for _, m := range fleet[:3] {
		eventually(t, "the new addresses are known", func() bool {
			return slices.ContainsFunc(m.Members(), func(o Member) bool { return o.Equal(again.Self()) })
		})
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := startMember(t, func(c *Config) { c.Registerer = reg })
	m.Set(hold(blob("a"), blob("b")), nil)
	m.holders(t, blob("a"))
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kioo_discovery_announced_keys Keys that this member announces.
# TYPE kioo_discovery_announced_keys gauge
kioo_discovery_announced_keys 2
`), "kioo_discovery_announced_keys"); err != nil {
		t.Error(err)
	}
}

package discovery

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/libp2p/go-libp2p/core/peer"
)

// patience is how long anything may take that should happen at once, on a machine that does other things too.
const patience = time.Minute

func clusterKey(b byte) []byte { return bytes.Repeat([]byte{b}, keySize) }

func loopback() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")} }

// testMember is a running member.
type testMember struct {
	*Discovery
	stop context.CancelFunc
	done chan error
}

// startMember runs a member until the test ends. change may alter its configuration.
func startMember(t *testing.T, change func(*Config)) *testMember {
	t.Helper()
	cfg := Config{
		Keys: [][]byte{clusterKey(1)}, Listen: loopback(), PeerAPI: []string{"127.0.0.1:28501"},
		BootstrapInterval: 300 * time.Millisecond, Log: testr.NewWithOptions(t, testr.Options{Verbosity: 1}),
	}
	if change != nil {
		change(&cfg)
	}
	// The test's log ends with the test; members go on a little.
	if !testing.Verbose() {
		cfg.Log = cfg.Log.V(9)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &testMember{Discovery: d, stop: cancel, done: make(chan error, 1)}
	go func() { m.done <- d.Run(ctx) }()
	select {
	case <-d.Started():
	case err := <-m.done:
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { m.leave(t) })
	return m
}

// leave ends a member in order. It may be called again.
func (m *testMember) leave(t *testing.T) {
	t.Helper()
	m.stop()
	select {
	case err := <-m.done:
		if err != nil {
			t.Errorf("%s: %v", m.Self().ID, err)
		}
		m.done <- nil
	case <-time.After(patience):
		t.Errorf("%s does not end", m.Self().ID)
	}
}

// kill ends a member without a goodbye: its connections break.
func (m *testMember) kill(t *testing.T) {
	t.Helper()
	if err := m.node.host.Close(); err != nil {
		t.Error(err)
	}
	m.leave(t)
}

func startFleet(t *testing.T, n int, change func(int, *Config)) []*testMember {
	t.Helper()
	var fleet []*testMember
	for i := range n {
		fleet = append(fleet, startMember(t, func(c *Config) {
			c.PeerAPI = []string{fmt.Sprintf("10.0.0.%d:28501", i+1)}
			if i > 0 {
				c.Bootstrap = Static(fleet[0].Self().Addrs)
			}
			if change != nil {
				change(i, c)
			}
		}))
	}
	return fleet
}

// eventually waits for what should come true by itself, asking often.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for !is() {
		select {
		case <-ask.C:
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// settle waits until all know all, nobody has anything left to tell.
func settle(t *testing.T, fleet []*testMember) {
	t.Helper()
	eventually(t, "all know each other", func() bool {
		return !slices.ContainsFunc(fleet, func(m *testMember) bool {
			return len(m.Members()) != len(fleet)-1 || m.Pending() != 0
		})
	})
}

func (m *testMember) holders(t *testing.T, key Key) []peer.ID {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, err := m.Providers(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	ids := []peer.ID{}
	for _, p := range found {
		ids = append(ids, p.Member.ID)
	}
	slices.Sort(ids)
	return ids
}

// allSee waits until everybody, but those that hold the key, finds exactly these holders.
func allSee(t *testing.T, fleet []*testMember, key Key, holders ...*testMember) {
	t.Helper()
	for _, m := range fleet {
		want := []peer.ID{}
		for _, h := range holders {
			if h != m {
				want = append(want, h.Self().ID)
			}
		}
		slices.Sort(want)
		eventually(t, fmt.Sprintf("%s sees %d holders", m.Self().ID, len(want)), func() bool {
			return slices.Equal(m.holders(t, key), want)
		})
	}
}

package discovery

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/strangers"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// meetTime is how long a new member may take to meet others while strangers keep their port busy. It takes a few
// handshakes, each of which waits for a processor; where strangers can keep it out, it takes as long as they want.
const meetTime = 12 * time.Second

// TestStrangersKeepNobodyFromMeeting keeps a member's port busy in all ways. Meanwhile new members come to it, from an
// address that is listed or from one that is not, and it is started anew, so that it has to find others itself.
func TestStrangersKeepNobodyFromMeeting(t *testing.T) {
	for name, behaviour := range strangers.Behaviours() {
		for _, crowd := range []struct {
			connections, sources int
			listed               bool
		}{{650, 1, false}, {1000, 8, false}, {1000, 500, true}} {
			if name == "nonsense" || name == "TLS" {
				crowd.connections /= 4 // They end at once, and what is left of a test's machine is theirs.
			}
			t.Run(fmt.Sprintf("%s %d from %d listed %v", name, crowd.connections, crowd.sources, crowd.listed), func(t *testing.T) {
				fleet := startFleet(t, 2, nil)
				resident, other := fleet[0], fleet[1]
				settle(t, fleet)
				if crowd.listed {
					resident.list(other.Self().Addrs)
				}
				before := heap()
				r, err := strangers.Start(t.Context(), strangers.Crowd{
					To: resident.Self().Addrs[0].String(), Connections: crowd.connections,
					Sources: strangers.Loopback(crowd.sources), Behaviour: behaviour,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Stop()
				for range 2 {
					soon(t, "a new member meets it", func() { startAndMeet(t, resident, resident.Self().Addrs) })
				}
				t.Logf("%d connections were opened; %d KiB of heap more with them", r.Opened(), (heap()-before)>>10)
				resident.leave(t)
				soon(t, "it meets others when it is started anew", func() {
					startAndMeet(t, other, other.Self().Addrs, resident.Self().Addrs...)
				})
			})
		}
	}
}

// soon does something that must not take long.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	began := time.Now()
	do()
	took := time.Since(began)
	t.Logf("%s after %v", what, took.Round(time.Millisecond))
	if took > meetTime {
		t.Errorf("it took %v until %s", took, what)
	}
}

// startAndMeet starts a member, and waits until it and the other one know each other.
func startAndMeet(t *testing.T, other *testMember, bootstrap []netip.AddrPort, listen ...netip.AddrPort) {
	t.Helper()
	m := startMember(t, func(c *Config) {
		c.Bootstrap = Static(bootstrap)
		if len(listen) > 0 {
			c.Listen = listen
		}
	})
	knows := func(m, o *testMember) bool {
		return slices.ContainsFunc(m.Members(), func(k Member) bool { return k.ID == o.Self().ID })
	}
	eventually(t, "a new member and the other one know each other", func() bool { return knows(m, other) && knows(other, m) })
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapInuse + stats.StackInuse)
}

// TestHandshakeHasTwoSeconds opens connections that take their time in all ways: none outlasts its two seconds by much.
func TestHandshakeHasTwoSeconds(t *testing.T) {
	m := startMember(t, nil)
	for name, behaviour := range strangers.Behaviours() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", m.Self().Addrs[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			began := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			var saying sync.WaitGroup
			defer saying.Wait()
			defer cancel()
			saying.Go(func() { behaviour(ctx, conn) })
			if err := conn.SetReadDeadline(began.Add(handshakeTimeout + 3*time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Errorf("still open after %v", time.Since(began))
			}
		})
	}
}

// TestOneMemberTakesNotAllConnections has one who holds the key connect again and again: it keeps a few, and others
// come and go as ever.
func TestOneMemberTakesNotAllConnections(t *testing.T) {
	reg := prometheus.NewRegistry()
	resident := startMember(t, func(c *Config) { c.Registerer = reg })
	startAndMeet(t, resident, resident.Self().Addrs)
	greedy := startMember(t, func(c *Config) { c.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.12:0")} })
	addr := addrInfo(resident.Self())
	var open []network.MuxedConn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	transport := greedy.node.swarm.TransportForDialing(addr.Addrs[0])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const tries = 1000
	for range tries {
		if c, err := transport.Dial(ctx, addr.Addrs[0], addr.ID); err == nil {
			open = append(open, c)
		}
	}
	if n := len(resident.node.host.Network().ConnsToPeer(greedy.Self().ID)); n > maxConnsPerMember {
		t.Errorf("a member has %d connections", n)
	}
	startAndMeet(t, resident, resident.Self().Addrs)
	if n := len(resident.Members()); n < 2 {
		t.Errorf("%d other members are left", n)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kioo_discovery_connections_displaced_total Inbound connections that were closed for others, by what they were counted as.
# TYPE kioo_discovery_connections_displaced_total counter
kioo_discovery_connections_displaced_total{from="listed"} 0
kioo_discovery_connections_displaced_total{from="member"} 0
kioo_discovery_connections_displaced_total{from="stranger"} 0
`), "kioo_discovery_connections_displaced_total"); err != nil {
		t.Error(err)
	}
}

// TestListedWhileStrangersPress has bootstrap name a new address while strangers push each other out: it is asked again
// at once, not with its next round.
func TestListedWhileStrangersPress(t *testing.T) {
	var mu sync.Mutex
	var answer []netip.AddrPort
	m := startMember(t, func(c *Config) {
		c.BootstrapInterval = time.Hour
		c.Bootstrap = bootstrapFunc(func() []netip.AddrPort {
			mu.Lock()
			defer mu.Unlock()
			return answer
		})
	})
	startAndMeet(t, m, m.Self().Addrs) // From now on it has no reason to ask again.
	late := netip.MustParseAddrPort("127.0.0.9:1")
	mu.Lock()
	answer = []netip.AddrPort{late}
	mu.Unlock()
	r, err := strangers.Start(t.Context(), strangers.Crowd{
		To: m.Self().Addrs[0].String(), Connections: 2 * strangersPerSource, Sources: strangers.Loopback(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	eventually(t, "the new address is listed", func() bool { return m.Listed(late.Addr()) })
}

type bootstrapFunc func() []netip.AddrPort

func (f bootstrapFunc) Peers(context.Context) ([]netip.AddrPort, error) { return f(), nil }

package attack

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/attack/stranger"
	"github.com/kioo-dev/kioo/hack/fleet"
)

// crowd opens connections to an address, as a pod does, until the end of the test.
func (w *world) crowd(t *testing.T, address string, manner stranger.Manner, n int) *stranger.Crowd {
	t.Helper()
	c, err := stranger.Come(t.Context(), w.pod, address, manner, n)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// healthAddr is where a node's probes ask: a port of its own, which only the node reaches.
const healthAddr = "127.0.0.1:28503"

// probes asks for a node's health, and gives how often it failed.
func probes(t *testing.T, n *fleet.Node, times int) (failed int) {
	t.Helper()
	for range times {
		if !answers(t, n, "http://"+healthAddr+"/healthz", time.Second) { // As long as the kubelet waits.
			failed++
		}
	}
	return failed
}

// scrapes asks for a node's metrics, and gives how often that failed.
func scrapes(t *testing.T, n *fleet.Node, times int) (failed int) {
	t.Helper()
	for range times {
		if !answers(t, n, "http://"+fleet.MetricsAddr+"/metrics", 10*time.Second) { // As long as Prometheus waits.
			failed++
		}
	}
	return failed
}

// answers tells whether something is answered with 200 from a node to itself, in time.
func answers(t *testing.T, n *fleet.Node, u string, within time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := n.Client().Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// TestAttackFHealth: a pod opens connections to the port of metrics, asks and never reads, or says nothing, or talks
// slowly, or nonsense. It wants that the node's health checks fail, so that Kubernetes restarts Kioo, or that nobody
// sees its metrics; none may.
func TestAttackFHealth(t *testing.T) { defended(t, healthDenied) }

func healthDenied(t *testing.T, w *world) (reached []string) {
	n := w.Nodes[0]
	address := netip.AddrPortFrom(n.Addr, 28504).String()
	for _, manner := range stranger.Manners(address, "/metrics") {
		crowd := w.crowd(t, address, manner, 300)
		if failed := probes(t, n, 20); failed > 0 {
			reached = append(reached, fmt.Sprintf("with %d connections that are %s, %d of 20 health checks fail", crowd.Open(), manner.Name, failed))
		}
		if failed := scrapes(t, n, 2); failed > 0 {
			reached = append(reached, fmt.Sprintf("with %d connections that are %s, %d of 2 scrapes fail", crowd.Open(), manner.Name, failed))
		}
		crowd.Leave()
	}
	eventually(t, settleTime, "the node is well again", func() bool { return probes(t, n, 1)+scrapes(t, n, 1) == 0 })
	return reached
}

// TestAttackGDiscovery: a pod holds idle connections to the port of discovery on each node. It wants that a node
// which restarts finds nobody, and pulls everything from upstream; it must find the others within seconds.
func TestAttackGDiscovery(t *testing.T) { defended(t, discoveryDenied) }

func discoveryDenied(t *testing.T, w *world) (reached []string) {
	const within = 10 * time.Second
	var crowds []*stranger.Crowd
	for _, n := range w.Nodes {
		crowds = append(crowds, w.crowd(t, n.DHTAddr(), stranger.Manner{Name: "idle"}, 1000))
	}
	second := w.Nodes[1]
	if err := second.RestartKioo(t.Context()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for {
		members := w.metrics(t, second).Sum("kioo_discovery_members", `state="live"`)
		if int(members) == len(w.Nodes) {
			break
		}
		if time.Since(start) > within {
			reached = append(reached, fmt.Sprintf("after %v a node that restarted knows %v of %d others", within, members, len(w.Nodes)))
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("known after %v", time.Since(start).Round(time.Millisecond))
	for _, crowd := range crowds {
		crowd.Leave()
	}
	w.waitMembers(t, second)
	return reached
}

package attack

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/hack/attack/stranger"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/process"
)

// TestAttackFPorts: hostile connections by the thousand at each port of a node at once, in every manner: from a pod at
// those that it reaches, and from a process on the node at the others. They want that pulls, discovery, health or
// metrics stop; all must go on, in bounded memory. It takes the whole machine, so that make attack alone runs it.
func TestAttackFPorts(t *testing.T) {
	if os.Getenv(withControls) == "" {
		t.Logf("without the thousands: make attack brings them, by %s=1", withControls)
		return
	}
	defended(t, portsDenied)
}

// hostile is how many connections there are at each port.
const hostile = 1000

func portsDenied(t *testing.T, w *world) (reached []string) {
	n, second := w.Nodes[0], w.Nodes[1]
	from := map[string]stranger.Dialer{
		netip.AddrPortFrom(n.Addr, 28504).String(): w.pod, n.PeerAddr(): w.pod, n.DHTAddr(): w.pod,
		fleet.MirrorAddr: n, healthAddr: n,
	}
	before := memory(t, n)
	for _, manner := range stranger.Manners("127.0.0.1", "/v2/") {
		img := w.push(t, w.public, w.fresh("meanwhile"), "v1", 200_000)
		crowds := w.crowds(t, from, manner)
		open := 0
		for _, crowd := range crowds {
			open += crowd.Open()
		}
		began := time.Now()
		if err := second.RestartKioo(t.Context()); err != nil {
			t.Fatal(err)
		}
		known := w.waitMembers(t, second)
		missed := func(what string) { reached = append(reached, fmt.Sprintf("while they are %s: %s", manner.Name, what)) }
		if known > 15*time.Second {
			missed(fmt.Sprintf("a node that restarts knows the others after %v", known))
		}
		start := time.Now()
		if err := pulls(t, n, img.name(), "", ""); err != nil {
			missed(fmt.Sprintf("containerd can't pull: %v", err))
		}
		pulled := time.Since(start)
		if failed := probes(t, n, 20); failed > 0 {
			missed(fmt.Sprintf("%d of 20 health checks fail", failed))
		}
		if failed := scrapes(t, n, 3); failed > 0 {
			missed(fmt.Sprintf("%d of 3 scrapes fail", failed))
		}
		during := memory(t, n)
		t.Logf("%d connections that are %s, for %v: a pull took %v, a new node knew the others after %v; resident %d MiB before, %d now",
			open, manner.Name, time.Since(began).Round(time.Millisecond), pulled.Round(time.Millisecond), known.Round(time.Millisecond), before>>20, during>>20)
		if during > before+maxGrowth {
			missed(fmt.Sprintf("the node's memory grows from %d MiB to %d", before>>20, during>>20))
		}
		for _, crowd := range crowds {
			crowd.Leave()
		}
	}
	return reached
}

// crowds come to several ports at once.
func (w *world) crowds(t *testing.T, from map[string]stranger.Dialer, manner stranger.Manner) []*stranger.Crowd {
	t.Helper()
	var (
		mu     sync.Mutex
		crowds []*stranger.Crowd
		group  errgroup.Group
	)
	for address, dialer := range from {
		group.Go(func() error {
			crowd, err := stranger.Come(t.Context(), dialer, address, manner, hostile)
			if err != nil {
				return fmt.Errorf("%s: %w", address, err)
			}
			mu.Lock()
			defer mu.Unlock()
			crowds = append(crowds, crowd)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return crowds
}

// maxGrowth is how much more memory 5,000 hostile connections may take.
const maxGrowth = 256 << 20

// memory is what a node's Kioo has resident.
func memory(t *testing.T, n *fleet.Node) int64 {
	t.Helper()
	m, err := process.ReadMemory(n.Kioo().PID())
	if err != nil {
		t.Fatal(err)
	}
	return m.Anonymous
}

// Package fleet runs N nodes on one machine, for tests, benchmarks and the demo: each is a network namespace with a
// real containerd and a real Kioo, all on one bridge with a real upstream registry.
//
// It owns the network between them, whose links it shapes and cuts, and the life of everything in it: what is started
// here ends with this process, however that ends, and what a killed process leaves behind is removed by the next one.
// Nothing of the machine's own network changes; no address exists outside of the namespaces. What is pulled and what
// is measured is its users' business.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/peer"
)

// maxNodes is what the plan of addresses has room for. Processors and memory end far below it.
const maxNodes = 200

// Config says what fleet to run. Only Nodes is required.
type Config struct {
	// Nodes is how many there are, 1 to 200.
	Nodes int
	// Link is each node's link. Default: as fast as the machine.
	Link Link
	// Upstream is the upstream registry's link. Default: as fast as the machine.
	Upstream Link
	// Registry is the upstream registry itself. Default: one without authentication.
	Registry registrytest.Config

	// Containerd is the release that all nodes run. Default: the newest one.
	Containerd containerdtest.Version
	// DiscardUnpackedLayers is containerd's own setting, as EKS and kind have it.
	DiscardUnpackedLayers bool
	// ContainerdSettings is added to each containerd's config.toml.
	ContainerdSettings string
	// NoMirror leaves Kioo out: containerd asks the upstream registry itself.
	NoMirror bool

	// Kioo is the built program. Default: this tree's, built now.
	Kioo string
	// NoKey leaves the nodes without a cluster key, so that each Kioo serves its own node only. Otherwise they share
	// one that is made for them.
	NoKey bool
	// Zones are the nodes' zones, in turns. Default: none.
	Zones []string
	// Configure changes the configuration of a node's Kioo before it is written. Default: nothing is changed.
	Configure func(node *Node, cfg *config.Config)
}

// Link is how a place hangs on the bridge. The zero value is a link as fast as the machine.
type Link struct {
	// Rate is in bits per second, in each direction. 0 means no limit.
	Rate int64
	// Latency is how long each packet takes, in each direction. It needs sch_netem of the kernel, which small kernels
	// lack; New says so then. 0 adds none.
	Latency time.Duration
}

// Fleet is a running fleet. Its methods are safe for concurrent use, but for Close.
type Fleet struct {
	// Nodes are the nodes, node-1 first.
	Nodes []*Node
	// Upstream is the upstream registry.
	Upstream *Upstream

	cfg     Config
	dir     string
	network *network

	mu        sync.Mutex
	strangers []*Node
	closed    bool
}

// Unavailable says why no fleet can run here; empty if one can.
func Unavailable() string {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "a fleet needs Linux and root, for network namespaces"
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "a fleet needs " + tool + ": apt-get install iproute2"
		}
	}
	return probe()
}

// New runs a fleet until Close: everything has started when it returns. ctx bounds only the start.
func New(ctx context.Context, cfg Config) (_ *Fleet, err error) {
	if why := Unavailable(); why != "" {
		return nil, errors.New(why)
	}
	if cfg.Nodes < 1 || cfg.Nodes > maxNodes {
		return nil, fmt.Errorf("a fleet of %d nodes: 1 to %d are possible", cfg.Nodes, maxNodes)
	}
	if err := removeLeftovers(ctx); err != nil {
		return nil, fmt.Errorf("remove what dead fleets left: %w", err)
	}
	dir, err := newDir()
	if err != nil {
		return nil, fmt.Errorf("make the fleet's directory: %w", err)
	}
	f := &Fleet{cfg: cfg, dir: dir, network: &network{name: filepath.Base(dir), nodes: cfg.Nodes}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := f.prepare(ctx); err != nil {
		return nil, err
	}
	if f.Upstream, err = newUpstream(ctx, f.network, cfg.Upstream, cfg.Registry); err != nil {
		return nil, err
	}
	return f, f.startNodes(ctx)
}

// prepare makes what all nodes share.
func (f *Fleet) prepare(ctx context.Context) error {
	if f.cfg.Kioo == "" && !f.cfg.NoMirror {
		var err error
		if f.cfg.Kioo, err = process.Build(ctx, kiootest.Package, f.dir); err != nil {
			return err
		}
	}
	if err := writeKey(f.KeyFile()); err != nil {
		return err
	}
	if err := f.network.open(ctx); err != nil {
		return fmt.Errorf("make the fleet's network: %w", err)
	}
	return nil
}

// KeyFile holds the key that the nodes share.
func (f *Fleet) KeyFile() string { return filepath.Join(f.dir, "cluster.key") }

func writeKey(name string) error {
	if err := os.WriteFile(name, []byte(peer.NewKey().String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write a cluster key: %w", err)
	}
	return nil
}

func (f *Fleet) startNodes(ctx context.Context) error {
	for i := range f.cfg.Nodes {
		f.Nodes = append(f.Nodes, &Node{fleet: f, number: i + 1})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.GOMAXPROCS(0))) // More would only take turns.
	for _, n := range f.Nodes {
		group.Go(func() error {
			if err := n.start(ctx); err != nil {
				return fmt.Errorf("node %d: %w", n.number, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// AddStranger adds a node that does not belong: it has no containerd, a link as fast as the machine, and a Kioo with a
// cluster key of its own, which StartKioo starts. It leaves with the fleet.
func (f *Fleet) AddStranger(ctx context.Context) (*Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.strangers) == maxStrangers {
		return nil, fmt.Errorf("there are %d strangers already", maxStrangers)
	}
	n := &Node{fleet: f, number: len(f.strangers) + 1, stranger: true}
	f.strangers = append(f.strangers, n)
	if err := n.start(ctx); err != nil {
		return nil, fmt.Errorf("stranger %d: %w", n.number, err)
	}
	return n, nil
}

// Close ends everything and removes all traces. Closing twice does nothing more.
func (f *Fleet) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var (
		ending sync.WaitGroup
		errs   = make([]error, len(f.Nodes)+len(f.strangers))
	)
	for i, n := range append(f.Nodes, f.strangers...) {
		ending.Go(func() { errs[i] = n.close() })
	}
	ending.Wait()
	if f.Upstream != nil {
		f.Upstream.Close()
	}
	errs = append(errs, f.network.close(), os.RemoveAll(f.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the fleet: %w", err)
	}
	return nil
}

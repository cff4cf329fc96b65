package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/hosts"
)

// Where a node's Kioo listens, which in a namespace of its own is where it listens on a real node.
const (
	MirrorAddr  = "127.0.0.1:28500"
	MetricsAddr = "127.0.0.1:28504"
	PeerPort    = 28501
	DHTPort     = 28502
)

const (
	kiooStartTime = 30 * time.Second
	kiooStopTime  = 20 * time.Second
)

// Node is a place with containerd and Kioo. It is safe for concurrent use, but for what starts and ends the two.
type Node struct {
	*Place
	// Containerd is the node's runtime: it pulls and removes images. A stranger has none.
	Containerd *containerdtest.Containerd
	// Zone is where the node says that it is.
	Zone string
	// Program is the built Kioo.
	Program string

	fleet    *Fleet
	number   int
	stranger bool
	dir      string

	mu     sync.Mutex
	kioo   *process.Process
	before string // What the Kioos before this one printed.
}

// start makes the node's place and starts what runs there.
func (n *Node) start(ctx context.Context) (err error) {
	name, addr, link := fmt.Sprintf("node-%d", n.number), nodeAddr(n.number), n.fleet.cfg.Link
	if n.stranger {
		name, addr, link = fmt.Sprintf("stranger-%d", n.number), strangerAddr(n.number), Link{}
	} else if zones := n.fleet.cfg.Zones; len(zones) > 0 {
		n.Zone = zones[(n.number-1)%len(zones)]
	}
	if n.Place, err = n.fleet.network.attach(ctx, name, addr, link); err != nil {
		return fmt.Errorf("make its place: %w", err)
	}
	n.Program, n.dir = n.fleet.cfg.Kioo, filepath.Join(n.fleet.dir, name)
	if err := os.MkdirAll(n.CertsDir(), 0o755); err != nil {
		return err
	}
	if n.stranger {
		if err := writeKey(n.keyFile()); err != nil {
			return err
		}
		return n.writeConfig()
	}
	if err := n.writeHosts(ctx); err != nil {
		return err
	}
	n.Containerd, err = containerdtest.Prepare(ctx, containerdtest.Config{
		Version:               n.fleet.cfg.Containerd,
		Dir:                   filepath.Join(n.dir, "containerd"),
		CertsDir:              n.CertsDir(),
		DiscardUnpackedLayers: n.fleet.cfg.DiscardUnpackedLayers,
		Wrapper:               n.Wrapper(),
		Settings:              n.fleet.cfg.ContainerdSettings,
	})
	if err != nil {
		return err
	}
	if err := n.Containerd.Start(ctx); err != nil {
		return err
	}
	if n.fleet.cfg.NoMirror {
		return nil
	}
	if err := n.writeConfig(); err != nil {
		return err
	}
	return n.StartKioo(ctx)
}

// writeHosts tells containerd that upstream speaks HTTP, as an administrator would, and puts the mirror before it.
func (n *Node) writeHosts(ctx context.Context) error {
	upstream := n.fleet.Upstream
	dir := filepath.Join(n.CertsDir(), upstream.Host())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("server = %q\n", upstream.URL())
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		return err
	}
	if n.fleet.cfg.NoMirror {
		return nil
	}
	_, err := hosts.Configure(ctx, hosts.Config{Root: n.CertsDir(), Mirror: "http://" + MirrorAddr})
	return err
}

// keyFile is the fleet's, and a stranger's own.
func (n *Node) keyFile() string {
	if n.stranger {
		return filepath.Join(n.dir, "cluster.key")
	}
	return n.fleet.KeyFile()
}

// CertsDir is the registry directory of the node's containerd.
func (n *Node) CertsDir() string { return filepath.Join(n.dir, "certs.d") }

// DataDir is where Kioo keeps everything.
func (n *Node) DataDir() string { return filepath.Join(n.dir, "kioo") }

// ConfigFile is Kioo's configuration.
func (n *Node) ConfigFile() string { return filepath.Join(n.dir, "kioo.yaml") }

// PeerAddr is where other members reach the node's peer API, and DHTAddr where they reach its DHT.
func (n *Node) PeerAddr() string { return netip.AddrPortFrom(n.Addr, PeerPort).String() }

// DHTAddr is where other members reach the node's DHT.
func (n *Node) DHTAddr() string { return netip.AddrPortFrom(n.Addr, DHTPort).String() }

func (n *Node) writeConfig() error {
	cfg := n.config()
	if n.fleet.cfg.Configure != nil {
		n.fleet.cfg.Configure(n, cfg)
	}
	data, err := yaml.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("write kioo's configuration: %w", err)
	}
	return os.WriteFile(n.ConfigFile(), data, 0o600)
}

// config is a node's as the chart would have it.
func (n *Node) config() *config.Config {
	cfg := config.Default()
	cfg.DataDir = n.DataDir()
	cfg.Mirror.Listen = []string{MirrorAddr}
	cfg.Metrics.Listen = MetricsAddr
	cfg.Log = config.Log{Level: "info", Format: "json"}
	upstream := config.DefaultRegistry()
	upstream.Match = n.fleet.Upstream.Host()
	upstream.Endpoints = []config.Endpoint{config.EndpointAt(n.fleet.Upstream.URL())}
	cfg.Registries = []config.Registry{upstream}
	if n.Containerd != nil {
		cfg.Containerd.Address = n.Containerd.Address()
		cfg.Containerd.ContentDir = n.Containerd.ContentDir()
		cfg.Containerd.CertsDir = n.CertsDir()
		cfg.Containerd.ConfigFile = filepath.Join(n.dir, "containerd", "config.toml")
	}
	if n.fleet.cfg.NoKey {
		return cfg
	}
	cfg.Peers.KeyFiles = []string{n.keyFile()}
	cfg.Peers.Listen = []string{n.PeerAddr()}
	cfg.Peers.Zone = n.Zone
	cfg.Discovery.Listen = []string{n.DHTAddr()}
	// All of them, so that whoever is down, those who start find the others.
	for i := range n.fleet.cfg.Nodes {
		member := netip.AddrPortFrom(nodeAddr(i+1), DHTPort).String()
		cfg.Discovery.Bootstrap.Addresses = append(cfg.Discovery.Bootstrap.Addresses, member)
	}
	return cfg
}

// StartKioo starts Kioo, the first time or again, and returns when it is ready. ctx bounds only the start.
func (n *Node) StartKioo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, kiooStartTime)
	defer cancel()
	p, err := n.Start(process.Config{Path: n.Program, Args: []string{"serve", "--config", n.ConfigFile()}})
	if err != nil {
		return fmt.Errorf("kioo: %w", err)
	}
	n.mu.Lock()
	if n.kioo != nil {
		n.before += n.kioo.Log()
	}
	n.kioo = p
	n.mu.Unlock()
	if err := p.WaitReady(ctx, func() bool { return n.ready(ctx) }); err != nil {
		p.Kill()
		return fmt.Errorf("kioo: %w", err)
	}
	return nil
}

func (n *Node) ready(ctx context.Context) bool {
	resp, err := n.Get(ctx, "http://"+MetricsAddr+"/readyz")
	return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// Get asks from this node.
func (n *Node) Get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return n.Client().Do(req)
}

// Kioo is the last Kioo that was started, nil before the first: whether it runs, what it uses and how it is paused.
func (n *Node) Kioo() *process.Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kioo
}

// KillKioo ends Kioo as kill -9 does.
func (n *Node) KillKioo() {
	if p := n.Kioo(); p != nil {
		p.Kill()
	}
}

// StopKioo ends Kioo as Kubernetes does.
func (n *Node) StopKioo() error {
	if p := n.Kioo(); p != nil {
		return p.Stop(kiooStopTime)
	}
	return nil
}

// RestartKioo stops Kioo and starts it again.
func (n *Node) RestartKioo(ctx context.Context) error {
	return errors.Join(n.StopKioo(), n.StartKioo(ctx))
}

// Log is what the node's Kioos printed, of each the end.
func (n *Node) Log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kioo == nil {
		return ""
	}
	return n.before + n.kioo.Log()
}

// Pull pulls an image as kubelet does.
func (n *Node) Pull(ctx context.Context, image string) error {
	_, err := n.Containerd.Pull(ctx, image)
	return err
}

func (n *Node) close() error {
	n.KillKioo() // Its end in good order is for tests of that.
	if n.Containerd != nil {
		return n.Containerd.Close()
	}
	return nil
}

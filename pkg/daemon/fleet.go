package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/hosts"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/swarm/session"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// discoveryDir is the directory of the member's identity below the data directory.
const discoveryDir = "identity"

// fleet is what a node needs beside its own mirror to be a member. Without cluster keys there is none of it.
type fleet struct {
	discovery *discovery.Discovery
	announcer *announcer
	client    *peer.Client
	creds     *peer.Credentials
	members   *mirror.Members
	service   *tracker.Service
	announces *tracker.Client
	sessions  *session.Sessions
	server    *peer.Server
	// violations is what other members said that they can't mean.
	violations *peer.Violations
	listeners  []net.Listener
}

// openFleet derives who this member is, and opens its listeners. The server comes with serveMembers.
func (d *Daemon) openFleet() (*fleet, error) {
	if len(d.cfg.Peers.KeyFiles) == 0 {
		d.log.Info("no cluster key is configured, so this mirror has no peers: it serves its own node and asks upstream")
		return nil, nil
	}
	keys, err := peer.LoadKeys(d.cfg.Peers.KeyFiles)
	if err != nil {
		return nil, fmt.Errorf("peers.keyFiles: %w", err)
	}
	f := &fleet{}
	if f.creds, err = peer.NewCredentials(keys, time.Now); err != nil {
		return nil, err
	}
	if err := f.listen(d.cfg.Peers.Listen); err != nil {
		return nil, err
	}
	advertise := d.cfg.Peers.Advertise
	if len(advertise) == 0 {
		for _, l := range f.listeners {
			advertise = append(advertise, l.Addr().String())
		}
	}
	var raw [][]byte
	for _, k := range keys {
		raw = append(raw, k[:])
	}
	identity := filepath.Join(d.cfg.DataDir, discoveryDir)
	if err := os.MkdirAll(identity, 0o700); err != nil {
		d.log.Info("no place to keep this member's identity, so that each start makes a new one", "reason", err.Error())
	}
	f.discovery, err = discovery.New(discovery.Config{
		Keys:       raw,
		Listen:     d.cfg.Discovery.Addrs(),
		PeerAPI:    advertise,
		Zone:       d.cfg.Peers.Zone,
		DataDir:    identity,
		Bootstrap:  bootstrap(d),
		Log:        d.log.WithName("discovery"),
		Registerer: d.metrics,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open discovery: %w", err), f.close())
	}
	f.announcer = newAnnouncer(f.discovery.Set)
	f.violations = peer.NewViolations(d.log.WithName("peer"), d.metrics)
	f.client = peer.NewClient(peer.ClientConfig{
		Credentials: f.creds, Member: f.discovery.Self().ID.String(), Zone: d.cfg.Peers.Zone,
		BytesPerSecond: int64(d.cfg.Peers.MaxDownloadBytesPerSecond), Violations: f.violations, Registerer: d.metrics,
	})
	if f.members, err = mirror.NewMembers(f.discovery, f.client, time.Now, d.log.WithName("members")); err != nil {
		return nil, errors.Join(err, f.close())
	}
	if err := d.openSwarm(f); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// openSwarm makes what members need to get a blob together.
func (d *Daemon) openSwarm(f *fleet) (err error) {
	log := d.log.WithName("swarm")
	f.service, err = tracker.NewService(tracker.ServiceConfig{
		Directory: f.discovery, Now: time.Now, Violations: f.violations, Log: log, Registerer: d.metrics,
	})
	if err != nil {
		return err
	}
	f.announces, err = tracker.NewClient(tracker.ClientConfig{
		Locator: f.discovery, Caller: f.client, Service: f.service, Now: time.Now, Violations: f.violations,
		Log: log, Registerer: d.metrics,
	})
	if err != nil {
		return err
	}
	f.sessions, err = session.New(session.Config{
		Self: tracker.ID(f.discovery.Self().ID), Zone: d.cfg.Peers.Zone,
		Announcer: f.announces, Peers: f.client, Blame: f.members.Blame,
		Held: func(ctx context.Context, ref reference.Reference, claim access.Claim) bool {
			return d.mirror.Local().Holds(ctx, ref, claim)
		},
		Earlier: func(ref reference.Reference) []digest.Digest { return d.mirror.Earlier(ref) }, // There is no mirror yet.
		Log:     log, Registerer: d.metrics,
	})
	return err
}

func bootstrap(d *Daemon) discovery.Bootstrapper {
	b := d.cfg.Discovery.Bootstrap
	all := discovery.Combined{discovery.Static(b.Addrs())}
	if name, port := b.Name(); name != "" {
		all = append(all, discovery.DNS{Name: name, Port: port})
	}
	if d.kube != nil && d.kube.members != nil {
		all = append(all, d.kube.members)
	}
	return all
}

func (f *fleet) listen(addresses []string) error {
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return errors.Join(fmt.Errorf("peers.listen: %w", err), f.close())
		}
		f.listeners = append(f.listeners, l)
	}
	return nil
}

// serveMembers makes the server that answers other members with what this node holds.
func (d *Daemon) serveMembers() {
	handler := registry.New(registry.Config{
		Resolver:   reference.Resolver{},
		Backend:    d.mirror.Local(),
		Pseudonym:  "members",                   // Requests between members are never passed on, so that they can't loop.
		Log:        d.log.WithName("peer").V(1), // Each piece is a request.
		Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"api": "peer"}, d.metrics),
	})
	handle := d.control.members()
	handle[tracker.Path], handle[session.Path] = d.fleet.service, d.fleet.sessions
	p := d.cfg.Peers
	d.fleet.server = peer.NewServer(peer.ServerConfig{
		Handler: handler, Credentials: d.fleet.creds, Handle: handle,
		First: d.fleet.sessions.First, Lists: d.fleet.discovery.Listed, Violations: d.fleet.violations,
		Slots: p.UploadSlots, Queue: p.UploadQueue, BytesPerSecond: int64(p.MaxUploadBytesPerSecond), Drain: d.cfg.Shutdown.Timeout,
		Log: d.log.WithName("peer"), Registerer: d.metrics,
	})
}

// run is a member's life: until ctx ends, and then for as long as it takes to say goodbye and to finish uploads.
func (f *fleet) run(ctx context.Context, store *containerd.Store) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreCancel(f.discovery.Run(ctx)) })
	group.Go(func() error { return f.server.Run(ctx, f.listeners...) })
	group.Go(func() error { return ignoreCancel(f.service.Run(ctx)) })
	group.Go(func() error {
		<-ctx.Done()
		f.sessions.Close() // So that the streams of other members end before the server drains.
		return nil
	})
	if store != nil {
		group.Go(func() error { return f.announcer.follow(ctx, store) })
	}
	return group.Wait()
}

func (f *fleet) close() error {
	var errs []error
	for _, l := range f.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if f.sessions != nil {
		f.sessions.Close()
	}
	if f.announces != nil {
		f.announces.Close()
	}
	if f.client != nil {
		f.client.Close()
	}
	return errors.Join(errs...)
}

// openContainerd makes the store that reads what containerd holds; nil where there is no containerd.
func (d *Daemon) openContainerd() (*containerd.Store, error) {
	c := d.cfg.Containerd
	if c.Address == "" {
		return nil, nil
	}
	store, err := containerd.New(containerd.Config{
		Address: c.Address, ContentDir: c.ContentDir, Namespaces: c.Namespaces,
		Log: d.log.WithName("containerd"), Registerer: d.metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("open containerd's store: %w", err)
	}
	return store, nil
}

// openWatcher makes the watcher that keeps containerd's registry directory as it should be; nil where that is not
// ours to do.
func (d *Daemon) openWatcher() (*hosts.Watcher, error) {
	if d.cfg.Containerd.CertsDir == "" {
		return nil, nil
	}
	w, err := hosts.NewWatcher(hosts.WatcherConfig{
		Config: d.hostsConfig(), Observe: func(hosts.Result, error) { d.hooked.Store(true) },
	})
	if err != nil {
		return nil, fmt.Errorf("containerd.certsDir: %w", err)
	}
	return w, nil
}

// hostsConfig says what containerd's registry directory shall have.
func (d *Daemon) hostsConfig() hosts.Config {
	return hosts.Config{
		Root: d.cfg.Containerd.CertsDir, Mirror: "http://" + d.listeners[0].Addr().String() + d.cfg.Mirror.PathPrefix,
		Registries: d.cfg.Containerd.Registries, Log: d.log.WithName("hosts"),
	}
}

// Package daemon wires the parts of a node's mirror: what starts in which order, health, and shutdown.
package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/events"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/foreign"
	"github.com/kioo-dev/kioo/pkg/hosts"
	"github.com/kioo-dev/kioo/pkg/httpserver"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/swarm/object"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
)

// Config is what a daemon needs.
type Config struct {
	// Config is the node's configuration, validated.
	Config *config.Config
	Log    logr.Logger
	// Version is told to upstream and in the metrics.
	Version string
}

// Daemon is one node's mirror.
type Daemon struct {
	cfg     *config.Config
	log     logr.Logger
	metrics *prometheus.Registry

	kube     *kube             // Nil without the Kubernetes API.
	fleet    *fleet            // Nil without cluster keys.
	runtime  *containerd.Store // Nil without containerd.
	watcher  *hosts.Watcher    // Nil where containerd's registry directory is not ours.
	hooked   atomic.Bool       // The watcher has been through that directory.
	cache    *cache.Cache
	policy   *policy.Policy
	access   *access.Book
	upstream *upstream.Client
	foreign  *foreign.Client
	flights  *flight.Group
	mirror   *mirror.Mirror
	server   *httpserver.Server
	status   *status
	control  *control
	events   *events.Queue // Nil where nobody wants to hear of them.

	listeners []net.Listener
	watching  watching
	ready     chan struct{}
}

// New opens the store and the listeners, so that whatever is wrong shows before anything runs. Run closes them.
func New(cfg Config) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg.Config, log: cfg.Log, metrics: prometheus.NewRegistry(), ready: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	d.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(cfg.Version))
	if d.policy, err = policy.New(d.cfg); err != nil {
		return nil, err
	}
	if d.kube, err = d.openKubernetes(cfg.Version); err != nil {
		return nil, err
	}
	if d.fleet, err = d.openFleet(); err != nil {
		return nil, err
	}
	pseudonym := "kioo-" + rand.Text()[:16]
	if d.events, err = d.openEvents(pseudonym); err != nil {
		return nil, err
	}
	if err := d.openStores(); err != nil {
		return nil, err
	}
	d.openAccess()
	if err := d.openUpstream(cfg.Version, pseudonym); err != nil {
		return nil, err
	}
	if err := d.openMirror(pseudonym); err != nil {
		return nil, err
	}
	if err := d.listen(); err != nil {
		return nil, err
	}
	d.watcher, err = d.openWatcher()
	return d, err
}

func (d *Daemon) openStores() (err error) {
	if d.runtime, err = d.openContainerd(); err != nil {
		return err
	}
	c := d.cfg.Cache
	cfg := cache.Config{
		Dir:      filepath.Join(d.cfg.DataDir, CacheDir),
		MaxBytes: int64(c.MaxBytes), SpoolBytes: int64(c.SpoolBytes), MaxBlobs: c.MaxBlobs, MaxTags: c.MaxTags,
		Log: d.log.WithName("cache"), Registerer: d.metrics,
	}
	if c.Keep == config.KeepNever {
		cfg.MaxBytes, cfg.SpoolBytes = 0, cfg.MaxBytes+cfg.SpoolBytes
	}
	var watching observers
	if d.fleet != nil {
		watching = append(watching, d.fleet.announcer)
	}
	told := &cacheEvents{queue: d.events}
	if d.events != nil {
		watching = append(watching, told)
	}
	if len(watching) > 0 {
		cfg.Observer = watching
	}
	if d.cache, err = cache.Open(cfg); err != nil {
		return fmt.Errorf("open cache: %w", err)
	}
	told.open.Store(true)
	flights := flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			spool, err := d.cache.Create(owner, dgst, size)
			if err != nil {
				return nil, err
			}
			return spool, nil
		},
		Held: func(dgst digest.Digest) bool {
			blob, err := d.cache.Open(context.Background(), dgst)
			return err == nil && blob.Close() == nil
		},
		Grace: d.cfg.Flights.Grace, Max: d.cfg.Flights.Max,
		Log: d.log.WithName("flight"), Registerer: d.metrics,
	}
	if d.fleet != nil {
		flights.Swarm = d.fleet.sessions
	}
	d.flights = flight.New(flights)
	return nil
}

// CacheDir is the cache's directory below the data directory.
const CacheDir = "cache"

func (d *Daemon) openUpstream(version, pseudonym string) (err error) {
	u := d.cfg.Upstream
	d.upstream, err = upstream.New(upstream.Config{
		Registries:  d.registry,
		Networks:    config.Prefixes(u.Networks),
		Credentials: d.cfg.Credentials.DockerConfig,
		Own:         d.usesOwn,
		Realms:      d.cfg.Access.Realms,
		Observe:     d.access.Learn,
		UserAgent:   "kioo/" + version,
		Pseudonym:   pseudonym,
		Timeouts: upstream.Timeouts{
			Connect: u.ConnectTimeout, FirstByte: u.FirstByteTimeout, Progress: u.ProgressTimeout, Queue: u.QueueTimeout,
		},
		Retries:      upstream.Retries{Attempts: u.Attempts, Within: u.RetryWithin},
		RedirectsFor: d.cfg.Access.OpenFor,
		Log:          d.log.WithName("upstream"),
		Registerer:   d.metrics,
	})
	d.foreign = foreign.New(foreign.Config{
		Policy: d.policy.Foreign(), UserAgent: "kioo/" + version,
		Connect: u.ConnectTimeout, FirstByte: u.FirstByteTimeout, Progress: u.ProgressTimeout, Registerer: d.metrics,
	})
	return err
}

// registry tells the upstream client how a repository's registry is configured.
func (d *Daemon) registry(repo reference.Repository) upstream.Registry {
	route := d.policy.Route(repo)
	r := upstream.Registry{
		Name: route.Name, MaxConcurrent: route.MaxConcurrentRequests, BytesPerSecond: int64(route.MaxBytesPerSecond),
	}
	for _, s := range route.Servers() {
		r.Endpoints = append(r.Endpoints, upstream.Endpoint{
			URL: s.URL, Rewrite: s.Rewrite, CAFile: s.CAFile, Unlisted: s.Unlisted,
			ClientCertFile: s.ClientCertFile, ClientKeyFile: s.ClientKeyFile, MirrorsNamespace: s.SendNamespace,
		})
	}
	return r
}

func (d *Daemon) openMirror(pseudonym string) (err error) {
	var held []mirror.Held
	var tags []content.TagStore
	if d.runtime != nil {
		held = append(held, mirror.Held{Name: "containerd", Store: d.runtime})
		tags = append(tags, d.runtime)
	}
	var members *mirror.Members
	var agreed object.Tracker
	if d.fleet != nil {
		members = d.fleet.members
		if d.runtime != nil || d.cfg.Cache.Keep != config.KeepNever {
			agreed = d.fleet.announces // Who keeps nothing has nothing to give to those that waited.
		}
	}
	d.mirror, err = mirror.New(mirror.Config{
		Held:       append(held, mirror.Held{Name: "cache", Store: d.cache}),
		Tags:       tags,
		Members:    members,
		Tracker:    agreed,
		Keeper:     d.cache,
		Flights:    d.flights,
		Upstream:   d.upstream,
		Access:     d.access,
		Policy:     d.policy,
		Foreign:    d.foreign,
		FailedFor:  d.cfg.Tags.NegativeFor,
		Log:        d.log.WithName("mirror"),
		Registerer: d.metrics,
	})
	if err != nil {
		return err
	}
	d.mirror.Recall(context.Background(), d.cache.Manifests())
	handler := registry.New(registry.Config{
		Resolver:  reference.Resolver{Default: d.cfg.Mirror.DefaultRegistry, Prefix: d.cfg.Mirror.PathPrefix},
		Backend:   d.mirror,
		Pseudonym: pseudonym, RelayPathForm: d.policy.RelaysPathForm,
		MaxHops: d.cfg.Mirror.MaxHops,
		Names:   &httpserver.Names{Field: "mirror.hosts", More: d.cfg.Mirror.Hosts},
		Pulled:  pulled(d.events),
		Log:     d.log.WithName("registry"), Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"api": "node"}, d.metrics),
	})
	d.openControl()
	if d.fleet != nil {
		d.serveMembers()
	}
	d.server = registry.NewServer(handler, d.cfg.Mirror.MaxConnections, d.cfg.Shutdown.Timeout, d.log.WithName("http"))
	d.status = newStatus(d)
	return nil
}

// Ready is closed when the mirror answers.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// Run serves until ctx ends and then drains: answers on their way may finish within the configured time. A daemon
// runs once.
func (d *Daemon) Run(ctx context.Context) error {
	// The cache and the health server outlive the answers that need them.
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, groupCtx := errgroup.WithContext(behind)
	group.Go(func() error { return d.cache.Run(groupCtx) })
	group.Go(func() error { return d.keepAccess(groupCtx) })
	group.Go(func() error { return d.readClaims(groupCtx) })
	group.Go(func() error { return d.status.run(groupCtx, &d.watching) })
	front, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(groupCtx, cancel)() // A dead part ends the daemon.
	if d.runtime != nil {
		group.Go(func() error { return d.runtime.Run(groupCtx) })
	}
	if d.runtime != nil && d.cfg.Cache.Keep == config.KeepAuto {
		k := &keeper{cache: d.cache, runtime: d.runtime, forget: d.mirror.Forget, log: d.log.WithName("cache")}
		group.Go(func() error { return k.letGo(groupCtx) })
		group.Go(func() error { return k.follow(groupCtx) })
	}
	if d.events != nil {
		group.Go(func() error { return d.events.Run(groupCtx) })
	}
	group.Go(func() error { return d.warm(front) })
	if d.watcher != nil {
		group.Go(func() error { return d.watcher.Run(front) })
	}
	if d.fleet != nil { // Others hear of the end at once, and uploads drain beside the answers.
		group.Go(func() error { return d.fleet.run(front, d.runtime) })
	}
	if d.kube != nil {
		group.Go(func() error { return d.kube.run(front, d) })
	}
	d.status.ready.Store(true)
	close(d.ready)
	var addresses []string
	for _, addr := range d.Addrs() {
		addresses = append(addresses, addr.String())
	}
	d.log.Info("mirror is ready", "addresses", addresses, "dataDir", d.cfg.DataDir)
	err := d.server.Run(front, d.listeners...)
	d.status.ready.Store(false)
	d.log.Info("mirror drained")
	stop()
	return errors.Join(err, ignoreCancel(group.Wait()), d.close())
}

// close lets go of everything that New opened, in the opposite order.
func (d *Daemon) close() error {
	var errs []error
	for _, l := range append(d.listeners, d.watching.all()...) {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.mirror != nil {
		d.mirror.Close()
	}
	if d.flights != nil {
		d.flights.Close()
	}
	if d.fleet != nil { // Behind those that announce.
		errs = append(errs, d.fleet.close())
	}
	if d.upstream != nil {
		d.upstream.Close()
	}
	if d.foreign != nil {
		d.foreign.Close()
	}
	if d.cache != nil {
		errs = append(errs, d.cache.Close())
	}
	if d.events != nil {
		errs = append(errs, d.events.Close())
	}
	return errors.Join(errs...)
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

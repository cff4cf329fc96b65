// Package mirror decides how one request is answered: from what the node holds, from a flight, or not at all.
//
// It owns the order of sources, what a tag means and for how long, and what failed a moment ago. How requests and
// answers look on the wire is registry's business; how bytes travel is flight's and upstream's.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/foreign"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm/object"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/singleflight"
)

// ErrDenied says that configuration keeps a registry, a repository or a tag from being asked or answered for.
var ErrDenied = errors.New("denied by configuration")

// ErrProbe answers requests that only test whether they arrive.
var ErrProbe = errors.New("the request has reached the mirror, which is all that it was for")

const (
	// confirmWithin is how long upstream may take to confirm a tag when somebody else could answer for it.
	confirmWithin = 4 * time.Second
	// maxInMemory is how many manifests are answered from memory, and largestInMemory how large these are at most: a
	// request for one then costs no system call on a file. Together they bound it at 16 MiB.
	maxInMemory     = 256
	largestInMemory = 64 << 10
	// maxRemembered bounds each of the memories: recent failures, and what manifests told of their children.
	maxRemembered = 1 << 14
)

// Keeper is the store that keeps what passes by.
type Keeper interface {
	content.TagStore
	// Put keeps small content that an owner brings, verified against its descriptor.
	Put(ctx context.Context, owner content.Owner, desc ocispec.Descriptor, body []byte) error
	// SetTag remembers what a tag means.
	SetTag(ctx context.Context, ref reference.Reference, tag content.Tag) error
	// DeleteTag forgets it.
	DeleteTag(ctx context.Context, ref reference.Reference) error
	// Touch counts a use of content that was answered from memory.
	Touch(dgst digest.Digest)
}

// Held is a store that answers first, and its name for logs and metrics.
type Held struct {
	Name  string
	Store content.Store
}

// Config is what a mirror needs.
type Config struct {
	// Held is asked in this order before anything else.
	Held []Held
	// Tags knows what tags mean that the keeper may not know of, such as those of the runtime's images.
	Tags []content.TagStore
	// Keeper remembers manifests and tags.
	Keeper Keeper
	// Flights brings blobs.
	Flights *flight.Group
	// Members is asked for what is not held. Nil where there are none.
	Members *Members
	// Tracker agrees with the other members on who gets from upstream what all of them want. Nil where there are
	// none.
	Tracker object.Tracker
	// Upstream is asked for what no member holds.
	Upstream *upstream.Client
	// Access says who may read what, by what it Learns from Upstream. Nil lets everybody read everything, and uses nobody's
	// credentials but the node's own.
	Access *access.Book
	// Policy says whom a request may reach, and who is believed about tags. Nil is that of a configuration without rules.
	Policy *policy.Policy
	// Foreign gets layers that are elsewhere. Nil gets none.
	Foreign *foreign.Client

	// FailedFor is how long a failed look-up is answered with the same failure, so that a client that retries in a
	// loop does not reach upstream each time. Zero remembers nothing.
	FailedFor time.Duration
	// AnswerWithin is how long a client waits for the first byte of an answer before it is told to go elsewhere. 20
	// seconds by default: containerd from 2.3 on gives a mirror 30 seconds, earlier ones wait for ever.
	AnswerWithin time.Duration

	Now        func() time.Time
	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Mirror answers requests. It is safe for concurrent use.
type Mirror struct {
	cfg       Config
	local     *Local
	failures  *lru.Cache[string, failure]
	memory    *lru.Cache[digest.Digest, fetched]
	windows   *lru.Cache[string, time.Duration] // What registries said of how long tags count.
	hints     *hints
	elsewhere *elsewhere
	tags      *prometheus.CounterVec
	ages      prometheus.Histogram
	probes    prometheus.Counter
	checks    *prometheus.CounterVec

	shared  singleflight.Group
	ctx     context.Context // What several clients wait for lives on it.
	cancel  context.CancelFunc
	running sync.WaitGroup
	objects *object.Objects // What is one piece, which this node gets together with others.
}

// New makes a mirror.
func New(cfg Config) (*Mirror, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.AnswerWithin == 0 {
		cfg.AnswerWithin = 20 * time.Second
	}
	var err error
	if cfg.Policy == nil {
		if cfg.Policy, err = policy.Default(); err != nil {
			return nil, fmt.Errorf("make default policy: %w", err)
		}
	}
	m := &Mirror{cfg: cfg}
	if m.elsewhere, err = newElsewhere(cfg.Policy.Foreign()); err != nil {
		return nil, err
	}
	m.local = &Local{
		Held: cfg.Held, Keeper: cfg.Keeper, Runtime: cfg.Tags, Policy: cfg.Policy, Withheld: m.elsewhere.withheld,
		Flights: cfg.Flights, Now: cfg.Now, Access: cfg.Access,
	}
	if m.local.forgotten, err = lru.New[string, time.Time](maxRemembered); err != nil {
		return nil, fmt.Errorf("make memory of forgotten tags: %w", err)
	}
	if m.windows, err = lru.New[string, time.Duration](maxRemembered); err != nil {
		return nil, fmt.Errorf("make memory of lifetimes: %w", err)
	}
	if m.failures, err = lru.New[string, failure](maxRemembered); err != nil {
		return nil, fmt.Errorf("make memory of failures: %w", err)
	}
	if m.memory, err = lru.New[digest.Digest, fetched](maxInMemory); err != nil {
		return nil, fmt.Errorf("make memory of manifests: %w", err)
	}
	m.local.memory = m.memory
	if m.hints, err = newHints(); err != nil {
		return nil, err
	}
	factory := promauto.With(cfg.Registerer)
	m.probes = factory.NewCounter(prometheus.CounterOpts{
		Name: "kioo_probe_requests_total", Help: "Requests of 'kioo check', which tests whether the container runtime pulls through this mirror.",
	})
	m.tags = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_tag_lookups_total",
		Help: "Tags resolved, by how: fresh (known for less than the freshness window), peer (other members know it), shared (another member has just asked upstream), confirmed or moved or new (by upstream), stale (upstream can't be asked), local (the route asks nobody outside), failed.",
	}, []string{"result"})
	m.ages = factory.NewHistogram(prometheus.HistogramOpts{
		Name: "kioo_tag_age_seconds", Help: "How long ago a registry confirmed what tags were answered to mean.",
		Buckets: []float64{1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600},
	})
	m.checks = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_access_checks_total",
		Help: "Questions to upstream whether held content may be given, by how they ended: open (everybody may read), accepted, refused, offline (upstream can't be asked, and it was given) or failed (upstream's answer says nothing of who may read).",
	}, []string{"result"})
	m.objects = object.New(object.Config{Tracker: cfg.Tracker, Held: m.keeps, Log: cfg.Log})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Close ends what still runs for clients that have left, and waits for it. No request may come any more.
func (m *Mirror) Close() {
	m.cancel()
	m.running.Wait()
	m.objects.Close()
}

// keeps tells whether content is held here, where other members are served from too.
func (m *Mirror) keeps(ctx context.Context, dgst digest.Digest) bool {
	if m.memory.Contains(dgst) {
		return true
	}
	a, err := m.local.open(ctx, dgst)
	if err != nil {
		return false
	}
	a.Blob.Close()
	return true
}

// Forget drops a manifest from memory that the node holds no more, so that others don't get it here.
func (m *Mirror) Forget(dgst digest.Digest) { m.memory.Remove(dgst) }

// Answer is content that a request gets. Who gets it closes its Blob.
type Answer struct {
	Blob content.Blob
	// Descriptor tells digest, media type and size.
	Descriptor ocispec.Descriptor
	// Source names where the bytes come from: a store's name, Peer or Upstream. It is empty for a blob that is still
	// arriving, which says so itself.
	Source string
	// Age is how long ago the tag was confirmed to mean this; zero for what was asked for by digest.
	Age time.Duration
	// Stale says that the tag could not be confirmed now, though it should have been; or, of what this node tells
	// other members, that it is not known when a registry last confirmed it.
	Stale bool
}

// Check refuses requests that the policy denies, and those that only test whether they arrive.
func (m *Mirror) Check(repo reference.Repository) error {
	if repo.IsProbe() {
		m.probes.Inc()
		return fmt.Errorf("%s: %w", repo, ErrProbe)
	}
	if m.cfg.Policy.Denied(repo) {
		return fmt.Errorf("%s: %w (%s)", repo, ErrDenied, m.cfg.Policy.Route(repo).Name)
	}
	return nil
}

// Local gives what this node holds, for other members.
func (m *Mirror) Local() *Local { return m.local }

// share runs fn once for all who ask for the same key at the same time. It runs on the mirror's own time: a client
// that leaves takes nothing from the others.
func share[T any](ctx context.Context, m *Mirror, key string, fn func(context.Context) (T, error)) (T, error) {
	type result struct {
		value any
		err   error
	}
	done := make(chan result, 1)
	m.running.Go(func() {
		value, err, _ := m.shared.Do(key, func() (any, error) {
			ctx, cancel := context.WithTimeout(m.ctx, m.cfg.AnswerWithin)
			defer cancel()
			return fn(ctx)
		})
		done <- result{value, err}
	})
	var none T
	select {
	case r := <-done:
		if r.err != nil {
			return none, r.err
		}
		return r.value.(T), nil
	case <-ctx.Done():
		return none, fmt.Errorf("%s: no answer in time: %w", key, ctx.Err())
	}
}

// failure is a look-up that failed a moment ago.
type failure struct {
	err error
	at  time.Time
}

func (m *Mirror) failed(key string) error {
	f, ok := m.failures.Get(key)
	if !ok {
		return nil
	}
	if m.cfg.Now().Sub(f.at) >= m.cfg.FailedFor {
		m.failures.Remove(key)
		return nil
	}
	return f.err
}

// remember notes a failure, but for those that say nothing of what was looked up.
func (m *Mirror) remember(key string, err error) {
	if m.cfg.FailedFor <= 0 || errors.Is(err, context.Canceled) || errors.Is(err, flight.ErrBusy) ||
		errors.Is(err, flight.ErrAbandoned) || errors.Is(err, upstream.ErrBusy) ||
		errors.Is(err, flight.ErrClosed) || errors.Is(err, flight.ErrHeld) || errors.Is(err, content.ErrNoSpace) ||
		errors.Is(err, upstream.ErrLoop) || m.cfg.Access != nil && challenges(err) {
		return
	}
	m.failures.Add(key, failure{err: err, at: m.cfg.Now()})
}

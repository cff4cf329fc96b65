// Package containerd reads what the node's containerd holds: blobs, and what tags mean by its image records. It also
// says what comes and goes, so that others can be told.
//
// Blobs are files of containerd's content directory where that is mounted, and come through its API where it is not.
// The files themselves are the truth, not the image records, which outlive layers that were discarded. Everything is
// read only: nothing is written, leased or labelled, so that Kioo never keeps containerd from collecting garbage.
//
// How containerd is told to pull through Kioo is package hosts' business.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// DefaultNamespace is the namespace that CRI, and so kubelet, keeps its images in.
const DefaultNamespace = "k8s.io"

// Config says which containerd to read, and how.
type Config struct {
	// Address is the path of containerd's socket. Required, but nothing needs to listen there yet.
	Address string

	// ContentDir is the directory of containerd's content store, "…/io.containerd.content.v1.content", which need not
	// be there yet. Empty means that it is not mounted: blobs come through the API then, which copies them twice more,
	// and with containerd before 2.1 some are noticed only after seconds.
	//
	// Blobs in the directory count whatever namespace they belong to; containerd shares them as well.
	ContentDir string

	// Namespaces are those whose image records are read. More of them make more of the node's images known by tag.
	// Default: DefaultNamespace alone.
	Namespaces []string

	// Reconcile is the time between two full comparisons with what containerd holds, for whatever the watches missed.
	// Shorter costs a listing of the directory, some 20 ms of a core for 10,000 blobs, and one of the image records.
	// Default: 30 s.
	Reconcile time.Duration

	// MaxBlobs bounds how many blobs are kept track of, at some 300 bytes each. Those beyond are served when asked
	// for, but announced to nobody. Default: 100,000.
	MaxBlobs int

	// MaxTags bounds how many image records are kept track of, at some 700 bytes each. Default: 20,000.
	MaxTags int

	// Log gets when containerd goes and comes back. The zero value is silent.
	Log logr.Logger

	// Registerer gets the metrics. Nil registers none.
	Registerer prometheus.Registerer

	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

func (c *Config) setDefaults() {
	c.Address = strings.TrimPrefix(c.Address, "unix://")
	if c.ContentDir != "" {
		c.ContentDir = filepath.Clean(c.ContentDir)
	}
	if len(c.Namespaces) == 0 {
		c.Namespaces = []string{DefaultNamespace}
	}
	if c.Reconcile == 0 {
		c.Reconcile = 30 * time.Second
	}
	if c.MaxBlobs == 0 {
		c.MaxBlobs = 100_000
	}
	if c.MaxTags == 0 {
		c.MaxTags = 20_000
	}
	if c.Log.GetSink() == nil {
		c.Log = logr.Discard()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

func (c *Config) validate() error {
	switch {
	case !filepath.IsAbs(c.Address):
		return fmt.Errorf("socket %q: an absolute path is needed", c.Address)
	case c.ContentDir != "" && !filepath.IsAbs(c.ContentDir):
		return fmt.Errorf("content directory %q: an absolute path is needed", c.ContentDir)
	case c.Reconcile < 0 || c.MaxBlobs < 0 || c.MaxTags < 0:
		return errors.New("an interval or a bound is negative")
	}
	for _, namespace := range c.Namespaces {
		// It becomes part of a filter, in quotes. containerd's own names have none of these characters.
		if namespace == "" || strings.ContainsAny(namespace, "\"\\ ") {
			return fmt.Errorf("namespace %q is none that containerd could have", namespace)
		}
	}
	return nil
}

var errNotRunning = errors.New("containerd's store does not run")

// Store is containerd's content. It is safe for concurrent use. Before Run it knows no tags, and without ContentDir
// no blobs either.
type Store struct {
	cfg     Config
	log     logr.Logger
	dir     directory
	metrics *metrics

	mu     sync.Mutex // For what follows. It is never held over I/O.
	ledger *ledger
	status Status
	full   bool    // MaxBlobs or MaxTags was reached, and the log says so.
	listed bool    // All image records were heard of.
	remote *remote // Nil while Run does not run.
}

// Status is how the store gets along.
type Status struct {
	// Connected says that containerd answers and its events arrive; otherwise Reason says why not.
	Connected bool
	Reason    string
	// Watched says that the content directory is there and watched; otherwise WatchReason says why not. Both are
	// empty where the directory is not mounted. containerd 1.7 makes the directory only with its first blob.
	Watched     bool
	WatchReason string
	// Blobs and Tags are how many are held.
	Blobs, Tags int
}

// New makes a store. It starts nothing.
func New(cfg Config) (*Store, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("containerd's store: %w", err)
	}
	s := &Store{
		cfg: cfg, log: cfg.Log, dir: directory(cfg.ContentDir),
		ledger: newLedger(cfg.MaxBlobs, cfg.MaxTags),
		status: Status{Reason: "not started"},
	}
	if cfg.ContentDir != "" {
		s.status.WatchReason = "not started"
	}
	s.metrics = newMetrics(cfg.Registerer, s)
	return s, nil
}

// Run keeps up with what containerd holds, until ctx ends. That containerd is missing, restarts or is gone for long
// is no reason to return.
func (s *Store) Run(ctx context.Context) error {
	r, err := newRemote(s.cfg.Address, s.cfg.Namespaces)
	if err != nil {
		return fmt.Errorf("containerd's store: %w", err)
	}
	s.setRemote(r)
	defer func() {
		s.setRemote(nil)
		_ = r.close() // It says only that it is closed already.
	}()
	var group errgroup.Group
	group.Go(func() error {
		s.followRuntime(ctx, r)
		return nil
	})
	if s.cfg.ContentDir != "" {
		group.Go(func() error {
			s.followFiles(ctx)
			return nil
		})
	}
	return group.Wait()
}

func (s *Store) setRemote(r *remote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remote = r
	if r == nil {
		s.status.Connected, s.status.Reason = false, "stopped"
	}
}

// Open implements content.Store.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (content.Blob, error) {
	if _, err := reference.ParseDigest(dgst.String()); err != nil {
		return nil, fmt.Errorf("containerd's %s: %w", dgst, content.ErrNotFound)
	}
	if s.cfg.ContentDir != "" {
		return s.openFile(dgst)
	}
	s.mu.Lock()
	r, connected := s.remote, s.status.Connected
	s.mu.Unlock()
	if r == nil || !connected {
		// What can't be had is not held; why it can't, the log said once.
		return nil, fmt.Errorf("containerd's %s: containerd can't be reached: %w", dgst, content.ErrNotFound)
	}
	return r.open(ctx, dgst)
}

// Tag implements content.TagStore. It knows only tags whose manifest is held; what the manifest lists is looked up by
// its own digests. Confirmed is when the image record was written last, which each pull does.
func (s *Store) Tag(_ context.Context, ref reference.Reference) (content.Tag, error) {
	miss := fmt.Errorf("containerd's %s: %w", ref, content.ErrNotFound)
	if ref.Tag == "" || ref.Digest != "" {
		return content.Tag{}, miss
	}
	s.mu.Lock()
	tag, ok := s.ledger.tag(ref.String())
	s.mu.Unlock()
	if !ok {
		return content.Tag{}, miss
	}
	if s.cfg.ContentDir != "" {
		if info, err := s.dir.stat(tag.Target.Digest); err != nil || info.Size() != tag.Target.Size {
			return content.Tag{}, miss
		}
	}
	return tag, nil
}

// Has says whether a blob is held, from memory.
func (s *Store) Has(dgst digest.Digest) bool {
	_, ok := s.Held(dgst)
	return ok
}

// Held says whether a blob is held, and since when, from memory. Where containerd discards layers after it unpacked
// them, it has each for a moment; who relies on its keeping a blob should look for how long it did.
func (s *Store) Held(dgst digest.Digest) (since time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.ledger.blobs[dgst]
	if !ok {
		return time.Time{}, false
	}
	return b.since, true
}

// Status says how the store gets along.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Blobs, st.Tags = len(s.ledger.blobs), s.ledger.visible
	return st
}

// put notes that a blob is held. It says whether that was news.
func (s *Store) put(dgst digest.Digest, size int64, since time.Time) bool {
	if now := s.cfg.Now(); since.IsZero() || since.After(now) {
		since = now
	}
	s.mu.Lock()
	news, room := s.ledger.put(dgst, size, since)
	s.mu.Unlock()
	if !room {
		s.sayFull("blobs", s.cfg.MaxBlobs)
	}
	return news
}

// drop notes that a blob is not held. It says whether that was news.
func (s *Store) drop(dgst digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.drop(dgst)
}

func (s *Store) sayFull(what string, most int) {
	s.mu.Lock()
	said := s.full
	s.full = true
	s.mu.Unlock()
	if !said {
		s.log.Info("containerd holds more than is kept track of: the rest is announced to nobody", "what", what, "most", most)
	}
}

// Package cache owns Kioo's own store: blobs as files by digest, bounded in bytes, with an index beside them of media
// types, last uses and what tags were last known to mean.
//
// The files are the truth and the index is what can be lost: a blob's file gets its name only after its bytes were
// verified and synced, so whatever a crash leaves, start-up makes an index that fits the files. Where bytes come from,
// and whether a tag is fresh enough to be believed, is the business of others.
//
// Layout below the cache's directory:
//
//	blobs/<algorithm>/<hex>   blobs, complete and verified
//	ingest/                   blobs on their way; wiped at start
//	index.db                  bbolt; index.db.corrupt is the last one that could not be read
package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// flushInterval is how long last uses and confirmations of tags wait to be written together. A crash forgets that
	// much of them, which costs a worse eviction or a needless revalidation.
	flushInterval = 10 * time.Second

	// probeInterval is how often a full disk is tried again.
	probeInterval = 15 * time.Second

	// lockTimeout is how long Open waits for another process to let go of the directory: a predecessor that drains.
	lockTimeout = 5 * time.Second
)

var (
	// ErrNoSpace says that the cache can't take a blob: it is larger than the bounds, everything else is in use, or
	// the disk is full. The caller goes on without the cache.
	ErrNoSpace = fmt.Errorf("cache: %w", content.ErrNoSpace)

	// ErrClosed says that the cache was closed.
	ErrClosed = errors.New("cache is closed")
)

// Config says where a cache is and how much it may hold.
type Config struct {
	// Dir is the cache's directory, created with mode 0700. It belongs to one process at a time.
	Dir string

	// MaxBytes bounds the bytes of blobs, what has come of those on their way included. More means fewer bytes fetched
	// again; with 0 nothing is kept. A blob that is larger than three quarters is not kept.
	MaxBytes int64

	// SpoolBytes bounds what has come of blobs on their way that will not be kept, because they are too large or what
	// is held can't make room for them. It comes on top of MaxBytes. With 0, the default, such blobs are refused with
	// ErrNoSpace. One that is larger than three quarters is refused.
	SpoolBytes int64

	// MaxBlobs bounds the number of blobs, those on their way included. Default 100,000, some 70 MB of memory with what is
	// remembered of those that went.
	MaxBlobs int

	// MaxTags bounds the number of tags; those that were confirmed the longest ago are forgotten first. Default 10,000.
	MaxTags int

	// Observer hears of what comes to be held and what does not stay, from what Open finds on. Nil: nobody does.
	Observer Observer

	// Log gets what is repaired, and when caching goes off and on.
	Log logr.Logger

	// Registerer gets the metrics. Nil registers none.
	Registerer prometheus.Registerer

	// Now is the clock of last uses. Default time.Now.
	Now func() time.Time
}

// Observer hears what a cache holds. It is called while the cache is locked: it returns at once, and calls nothing of
// the cache.
type Observer interface {
	// Blob tells that a blob is held from now on, or no longer.
	Blob(dgst digest.Digest, held bool)
	// Tag tells what a tag means from now on, or that it means nothing any more. The name is the reference's text.
	Tag(name string, tag content.Tag, known bool)
}

func (c *Config) validate() error {
	switch {
	case c.Dir == "":
		return errors.New("cache needs a directory")
	case c.MaxBytes < 0 || c.SpoolBytes < 0 || c.MaxBlobs < 0 || c.MaxTags < 0:
		return errors.New("cache's bounds can't be negative")
	}
	if c.MaxBlobs == 0 {
		c.MaxBlobs = 100_000
	}
	if c.MaxTags == 0 {
		c.MaxTags = 10_000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Cache is a bounded store of blobs and tags on disk. It is safe for concurrent use.
//
// Its locks, in the order in which they are taken: flushing, names, mu.
type Cache struct {
	dir       layout
	cfg       Config
	log       logr.Logger
	lock      *os.File
	evictions prometheus.Counter

	// flushing makes writes to the index one after the other, each with all that changed since the one before. So
	// changes that wait for the same sync share it.
	flushing sync.Mutex
	index    *index
	over     bool // The directory may be another process's.

	// names is held while files get and lose their names below blobs/, so that those and the ledger change together.
	// Nothing that takes long is done under it: no copying, no syncing.
	names sync.Mutex

	// mu guards what follows, and no I/O is done under it.
	mu     sync.Mutex
	ledger *ledger
	space  space
	closed bool
}

// Open opens a cache and repairs what a crash left. It fails when another process has the directory.
func Open(cfg Config) (*Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	dir := layout(cfg.Dir)
	if err := dir.create(); err != nil {
		return nil, fmt.Errorf("create cache in %s: %w", cfg.Dir, err)
	}
	lock, err := lockDir(cfg.Dir, lockTimeout)
	if err != nil {
		return nil, fmt.Errorf("open cache in %s: %w", cfg.Dir, err)
	}
	c := &Cache{
		dir:  dir,
		cfg:  cfg,
		log:  cfg.Log,
		lock: lock,
		ledger: newLedger(limits{
			bytes: cfg.MaxBytes, spool: cfg.SpoolBytes, blobs: cfg.MaxBlobs, tags: cfg.MaxTags,
		}),
		index: &index{path: dir.index()},
	}
	if cfg.Observer != nil {
		c.ledger.observer = cfg.Observer
	}
	if err := c.repair(); err != nil {
		return nil, errors.Join(fmt.Errorf("open cache in %s: %w", cfg.Dir, err), c.index.close(), lock.Close())
	}
	c.register(cfg.Registerer)
	return c, nil
}

func (c *Cache) register(registerer prometheus.Registerer) {
	factory := promauto.With(registerer)
	gauge := func(name, help string, read func() float64) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return read()
		})
	}
	gauge("kioo_cache_bytes", "Bytes of the blobs in the cache and of those on their way into it.",
		func() float64 { return float64(c.ledger.policy.Bytes() + c.ledger.policy.Reserved()) })
	gauge("kioo_cache_blobs", "Blobs in the cache.",
		func() float64 { return float64(len(c.ledger.blobs)) })
	gauge("kioo_cache_max_bytes", "Bytes that the cache may hold.",
		func() float64 { return float64(c.cfg.MaxBytes) })
	gauge("kioo_cache_disabled", "1 while nothing new is cached because the disk is full.", func() float64 {
		if c.space.full {
			return 1
		}
		return 0
	})
	c.evictions = factory.NewCounter(prometheus.CounterOpts{
		Name: "kioo_cache_evictions_total", Help: "Blobs that were evicted to make room for others.",
	})
}

// Run writes last uses in batches, and looks whether a full disk has room again, until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	flush := time.NewTicker(flushInterval)
	defer flush.Stop()
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-probe.C:
			c.probe()
		case <-flush.C:
			err := c.flush()
			if err != nil && !failing {
				c.log.Error(err, "the cache's index can't be written: the next start has to rebuild what it lacks")
			}
			failing = err != nil
		}
	}
}

// Close writes what is not yet in the index, and lets go of the directory. Open blobs stay readable. Closing twice
// does nothing more.
func (c *Cache) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	err := c.flush()
	c.flushing.Lock()
	defer c.flushing.Unlock()
	c.names.Lock() // Whoever is giving a file its name finishes first.
	defer c.names.Unlock()
	c.over = true
	if err := errors.Join(err, c.index.close(), c.lock.Close()); err != nil {
		return fmt.Errorf("close cache in %s: %w", c.cfg.Dir, err)
	}
	return nil
}

// flush brings the index up to what the ledger says. When it returns without an error, everything that was changed
// before the call is on disk.
func (c *Cache) flush() error {
	c.flushing.Lock()
	defer c.flushing.Unlock()
	if c.over {
		return ErrClosed
	}
	err := c.flushOnce()
	var corrupt *corruptError
	if errors.As(err, &corrupt) {
		c.log.Error(err, "the cache's index was corrupt: moved aside and written anew", "aside", c.dir.corruptIndex())
		err = c.flushOnce()
	}
	if isNoSpace(err) {
		c.turnOff(err, 0)
	}
	return err
}

func (c *Cache) flushOnce() error {
	if !c.index.isOpen() {
		if err := c.index.open(); err != nil {
			return err
		}
		c.mu.Lock()
		c.ledger.touchAll() // The file is new, so all that it should say is news to it.
		c.mu.Unlock()
	}
	c.mu.Lock()
	batch := c.ledger.takeChanges()
	c.mu.Unlock()
	if batch.empty() {
		return nil
	}
	err := c.index.write(batch)
	if err != nil {
		c.mu.Lock()
		c.ledger.giveBack(batch)
		c.mu.Unlock()
	}
	return err
}

package hosts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxSettle is how many times as long as a change takes to settle the watcher waits for changes that do not end.
const maxSettle = 20

// WatcherConfig says what a Watcher keeps in place, and how eagerly.
type WatcherConfig struct {
	Config

	// Recheck is how often everything is looked at even if nothing was heard: inotify does not see changes that are
	// made from elsewhere (network file systems), and may lack watches. Default: one minute. Less finds such
	// changes earlier for a few system calls per directory.
	Recheck time.Duration

	// Settle is how long nothing may change before the watcher looks. A tool that empties a file and then writes it
	// would lose what it writes if the file were replaced in between. Changes that never end are looked at after
	// twenty times as long. Default: one second, in which pulls may go upstream without asking the mirror.
	Settle time.Duration

	// Pause is the least time between two passes, so that a tool which insists on its own files makes neither of
	// the two spin. Default: two seconds.
	Pause time.Duration

	// Observe, if set, gets the outcome of each pass, on the goroutine of Run.
	Observe func(Result, error)
}

// Watcher keeps the mirror in place: it configures at the start, and again when somebody edits or deletes what was
// written or adds a directory. Its methods are for one goroutine.
type Watcher struct {
	cfg WatcherConfig
}

// NewWatcher checks the configuration and starts nothing.
func NewWatcher(cfg WatcherConfig) (*Watcher, error) {
	var err error
	if cfg.Config, err = cfg.Config.validate(); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&cfg.Recheck, time.Minute}, {&cfg.Settle, time.Second}, {&cfg.Pause, 2 * time.Second}} {
		if *d.value < 0 {
			return nil, errors.New("the watcher's times can't be negative")
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	return &Watcher{cfg: cfg}, nil
}

// Run keeps the mirror in place until ctx ends, and returns its error then. What fails is logged, once for as long
// as it stays the same, and tried again: a directory that can't be written is no reason to stop serving.
func (w *Watcher) Run(ctx context.Context) error {
	var events chan fsnotify.Event
	var errs chan error
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.cfg.Log.Error(err, "can't watch the registry directory; it is looked at from time to time only",
			"root", w.cfg.Root, "every", w.cfg.Recheck)
	} else {
		defer notify.Close()
		events, errs = notify.Events, notify.Errors
	}
	return w.loop(ctx, notify, events, errs)
}

func (w *Watcher) loop(
	ctx context.Context, n *fsnotify.Watcher, events <-chan fsnotify.Event, errs <-chan error,
) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due, last, since time.Time // When the next pass is, when the last one was, and the first change after it.
	failure := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			w.pass(ctx, n, &failure)
			last = time.Now()
			due, since = last.Add(w.cfg.Recheck), time.Time{}
		case e := <-events:
			if !w.concerns(e) {
				continue
			}
			if last.IsZero() {
				continue // The first pass is about to look at everything.
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			settled := now.Add(min(w.cfg.Settle, time.Until(since.Add(maxSettle*w.cfg.Settle))))
			due = later(settled, last.Add(w.cfg.Pause))
		case err := <-errs:
			w.cfg.Log.Error(err, "events of the registry directory were lost; looking at all of it")
			due = later(time.Now(), last.Add(w.cfg.Pause))
		}
		timer.Reset(time.Until(due))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// concerns says whether an event may be somebody else's change. Our own records and temporary files are not.
func (w *Watcher) concerns(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod || filepath.Ext(e.Name) == tempSuffix {
		return false
	}
	return filepath.Dir(e.Name) != filepath.Dir(w.cfg.Root) || filepath.Base(e.Name) == filepath.Base(w.cfg.Root)
}

// pass configures once and watches whatever directories there are now. It watches first: what changes while it
// configures is seen again.
func (w *Watcher) pass(ctx context.Context, n *fsnotify.Watcher, failure *string) {
	if n != nil {
		w.watch(n)
	}
	result, err := Configure(ctx, w.cfg.Config)
	if ctx.Err() != nil {
		return
	}
	if n != nil && result.Changed() {
		w.watch(n)
	}
	switch text := fmt.Sprint(err); {
	case err == nil:
		*failure = ""
	case text != *failure:
		*failure = text
		w.cfg.Log.Error(err, "the mirror is not in every hosts.toml", "root", w.cfg.Root)
	}
	if w.cfg.Observe != nil {
		w.cfg.Observe(result, err)
	}
}

// watch adds the directories that matter. What can't be watched is found by looking again.
func (w *Watcher) watch(n *fsnotify.Watcher) {
	p := pass{cfg: w.cfg.Config}
	dirs := []string{filepath.Dir(w.cfg.Root), w.cfg.Root}
	if targets, err := p.targets(); err == nil {
		for name := range targets {
			dirs = append(dirs, p.path(name))
		}
	}
	for _, dir := range dirs {
		if err := n.Add(dir); err != nil {
			w.cfg.Log.V(1).Info("can't watch a directory", "dir", dir, "error", err.Error())
		}
	}
}

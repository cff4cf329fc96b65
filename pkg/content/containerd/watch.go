package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// errReplaced says that what is watched is not what has the name any more: everything starts anew, at once.
var errReplaced = errors.New("the content directory came, went or was replaced")

// followFiles knows what is in the content directory, until ctx ends.
func (s *Store) followFiles(ctx context.Context) {
	wait := retry{first: 100 * time.Millisecond}
	for ctx.Err() == nil {
		err := s.watchFiles(ctx, wait.reset)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errReplaced) {
			continue
		}
		s.setWatched(false, err.Error())
		// A directory that isn't there costs nothing to look for. One that can't be watched is listed each time.
		wait.most = 5 * time.Second
		if errors.Is(err, fs.ErrNotExist) {
			wait.most = time.Second
		}
		if err := s.walk(ctx); err != nil && ctx.Err() == nil {
			s.log.V(1).Info("containerd's content directory can't be listed", "reason", err.Error())
		}
		wait.sleep(ctx)
	}
	s.setWatched(false, "stopped")
}

func (s *Store) setWatched(watched bool, reason string) {
	s.mu.Lock()
	before := s.status
	s.status.Watched, s.status.WatchReason = watched, reason
	s.mu.Unlock()
	switch {
	case watched && !before.Watched:
		s.log.Info("watching containerd's content", "directory", s.cfg.ContentDir)
	case !watched && reason != before.WatchReason && reason != "stopped":
		s.log.Info("containerd's content can't be watched for the moment", "directory", s.cfg.ContentDir, "reason", reason)
	}
}

// watchFiles watches the directory and, once the watches stand, lists it, so that nothing falls between the two. It
// returns when the watches can't be had, or not any more.
//
// The directory around it is watched too: containerd 1.7 makes the content directory with its first blob, and all
// versions the directories in it.
func (s *Store) watchFiles(ctx context.Context, stands func()) error {
	root, around := s.cfg.ContentDir, filepath.Dir(s.cfg.ContentDir)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("make an inotify instance (fs.inotify.max_user_instances may be too low): %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(around); err != nil {
		return fmt.Errorf("watch %s: %w", around, err)
	}
	identity, missing := os.Stat(root)
	if err := s.watchBlobs(ctx, watcher); err != nil {
		return err
	}
	if missing == nil {
		stands()
		s.setWatched(true, "")
	} else {
		s.setWatched(false, fmt.Sprintf("it is not there yet: %v", missing))
	}

	reconcile := time.NewTicker(s.cfg.Reconcile)
	defer reconcile.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			err = s.fileEvent(ctx, watcher, event)
		case err = <-watcher.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				err = s.walk(ctx)
			}
		case <-reconcile.C:
			// A directory further up may have been moved, which no watch shows.
			now, err := os.Stat(root)
			if (err == nil) != (missing == nil) || err == nil && !os.SameFile(identity, now) {
				return errReplaced
			}
			if err := s.reconcileFiles(ctx); err != nil {
				return fmt.Errorf("list %s: %w", root, err)
			}
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", root, err)
		}
	}
}

// watchBlobs watches those of the directories that are there, and lists them.
func (s *Store) watchBlobs(ctx context.Context, watcher *fsnotify.Watcher) error {
	dirs := []string{s.cfg.ContentDir, s.dir.blobs()}
	for _, a := range algorithms() {
		dirs = append(dirs, s.dir.algorithm(a))
	}
	for _, dir := range dirs {
		if err := watcher.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	if err := s.walk(ctx); err != nil {
		return fmt.Errorf("list %s: %w", s.dir.blobs(), err)
	}
	return nil
}

// fileEvent looks at what an event is about. What kind of event it is does not matter, since the file itself tells
// what is so now; the order of events does not either, then.
func (s *Store) fileEvent(ctx context.Context, watcher *fsnotify.Watcher, event fsnotify.Event) error {
	if !event.Has(fsnotify.Create | fsnotify.Remove | fsnotify.Rename) {
		return nil
	}
	blobs := s.dir.blobs()
	dir, name := filepath.Dir(event.Name), filepath.Base(event.Name)
	switch {
	case event.Name == s.cfg.ContentDir:
		return errReplaced
	case event.Name == blobs, dir == blobs:
		return s.watchBlobs(ctx, watcher)
	case filepath.Dir(dir) == blobs:
		dgst := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(dir)), name)
		if _, err := reference.ParseDigest(dgst.String()); err == nil {
			s.look(dgst)
		}
	}
	return nil
}

// look notes whether a blob's file is there. It says whether that was news.
func (s *Store) look(dgst digest.Digest) bool {
	info, err := s.dir.stat(dgst)
	switch {
	case err == nil:
		// containerd sets the time of the commit.
		return s.put(dgst, info.Size(), info.ModTime())
	case isGone(err):
		return s.drop(dgst)
	}
	return false // Nobody knows, so it is as it was.
}

// walk compares with all that is in the directory.
func (s *Store) walk(ctx context.Context) error {
	_, err := s.compareFiles(ctx)
	return err
}

// reconcileFiles is walk when nothing should be news.
func (s *Store) reconcileFiles(ctx context.Context) error {
	missed, err := s.compareFiles(ctx)
	s.metrics.missed.Add(float64(missed))
	return err
}

func (s *Store) compareFiles(ctx context.Context) (news int, err error) {
	seen := make(map[digest.Digest]struct{})
	for _, a := range algorithms() {
		err := s.dir.list(ctx, a, func(dgst digest.Digest) {
			seen[dgst] = struct{}{}
			// Checking a digest takes longer than all else here, so those that are known go first.
			if !s.Has(dgst) && dgst.Validate() == nil && s.look(dgst) {
				news++
			}
		})
		if err != nil {
			return news, err
		}
	}
	s.mu.Lock()
	gone := s.ledger.missing(seen)
	s.mu.Unlock()
	for _, dgst := range gone {
		if s.look(dgst) {
			news++
		}
	}
	return news, nil
}

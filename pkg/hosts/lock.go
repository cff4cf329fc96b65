package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockTimeout = 10 * time.Second // A pass takes milliseconds; who holds the lock for longer hangs.
	lockRetry   = 20 * time.Millisecond
)

// lock keeps other passes over the same root away, those of other processes too. It locks the parent of the root,
// which stays in place while the root comes and goes, and needs no file of its own; and the root itself where it is
// there, because in a container the parent may be another directory than for the host's processes.
func lock(ctx context.Context, root string) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	parent, err := lockDir(ctx, filepath.Dir(root))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist; is containerd's configuration mounted? %w", filepath.Dir(root), err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the registry directory's parent: %w", err)
	}
	own, err := lockDir(ctx, root)
	if errors.Is(err, os.ErrNotExist) {
		return func() { parent.Close() }, nil
	}
	if err != nil {
		parent.Close()
		return nil, fmt.Errorf("lock the registry directory: %w", err)
	}
	return func() {
		own.Close()
		parent.Close()
	}, nil
}

func lockDir(ctx context.Context, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOLCK) {
			return f, nil // Without locks, atomic writes still keep every file whole.
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("flock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("somebody else holds %s: %w", path, ctx.Err())
		case <-retry.C:
		}
	}
}

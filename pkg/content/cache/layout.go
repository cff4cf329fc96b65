package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// lockPoll is how often a directory that another process has is tried again.
const lockPoll = 50 * time.Millisecond

// layout is a cache's directory, and knows where in it things are.
type layout string

func (l layout) blobs() string        { return filepath.Join(string(l), "blobs") }
func (l layout) ingest() string       { return filepath.Join(string(l), "ingest") }
func (l layout) index() string        { return filepath.Join(string(l), "index.db") }
func (l layout) corruptIndex() string { return l.index() + corruptSuffix }

// algorithms are those that have a directory below blobs/.
var algorithms = [...]digest.Algorithm{digest.SHA256, digest.SHA512}

// blob gives the path of a digest that was validated.
func (l layout) blob(dgst digest.Digest) string {
	return filepath.Join(l.blobs(), dgst.Algorithm().String(), dgst.Encoded())
}

func (l layout) create() error {
	for _, a := range algorithms {
		if err := os.MkdirAll(filepath.Join(l.blobs(), a.String()), 0o700); err != nil {
			return err
		}
	}
	return os.MkdirAll(l.ingest(), 0o700)
}

// syncDir makes the names in a directory survive a loss of power.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// lockDir takes a directory for this process, or fails once the timeout has passed. The lock is on the directory
// itself because that needs no space on the disk, and it ends with the process however that ends.
func lockDir(path string, timeout time.Duration) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return dir, nil
		case err == syscall.EINTR:
			continue
		case err != syscall.EWOULDBLOCK:
			return nil, errors.Join(fmt.Errorf("lock directory: %w", err), dir.Close())
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return nil, errors.Join(
				fmt.Errorf("another process has the directory, and kept it for %s: is kioo running twice?", timeout),
				dir.Close())
		}
	}
}

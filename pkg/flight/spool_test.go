package flight_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// memorySpool is a spool without a disk's waits, for tests with a fake clock. Its readers see a file of the same
// size, which is all that those tests need.
type memorySpool struct {
	body []byte

	mu   sync.Mutex
	path string
	gone bool
}

func (s *memorySpool) open(t *testing.T) (*memorySpool, error) {
	s.path = filepath.Join(t.TempDir(), "spool")
	return s, os.WriteFile(s.path, s.body, 0o600)
}

func (s *memorySpool) WriteAt(p []byte, off int64) (int, error) { return copy(s.body[off:], p), nil }
func (s *memorySpool) ReadAt(p []byte, off int64) (int, error)  { return copy(p, s.body[off:]), nil }
func (s *memorySpool) Reader() (*os.File, error)                { return os.Open(s.path) }
func (s *memorySpool) Commit(context.Context, string) error     { return nil }

func (s *memorySpool) Discard() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	return nil
}

func (s *memorySpool) discarded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

package process_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kioo-dev/kioo/hack/process"
)

// TestOnce has a build fail first, and then many ask at once.
func TestOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	broken := errors.New("does not compile")
	_, err := process.Once(t.Context(), "tool-v1", "tool", func(_ context.Context, dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "tool"), []byte("half"), 0o755))
	})
	if !errors.Is(err, broken) {
		t.Errorf("a build that failed gave %v", err)
	}
	var builds atomic.Int64
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			program, err := process.Once(t.Context(), "tool-v1", "tool", func(_ context.Context, dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "tool"), []byte("whole"), 0o755)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if body, err := os.ReadFile(program); err != nil || string(body) != "whole" {
				t.Errorf("the program is %q, %v", body, err)
			}
		})
	}
	group.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times", builds.Load())
	}
}

package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// BenchmarkWalk compares with a directory of 10,000 blobs: at first none is known, and then all are.
func BenchmarkWalk(b *testing.B) {
	dir := b.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		b.Fatal(err)
	}
	const many = 10_000
	for i := range many {
		body := fmt.Append(nil, i)
		if err := os.WriteFile(filepath.Join(blobs, digest.FromBytes(body).Encoded()), body, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	walk := func(b *testing.B, s *Store) {
		if err := s.walk(b.Context()); err != nil || s.Status().Blobs != many {
			b.Fatalf("%d blobs, %v", s.Status().Blobs, err)
		}
	}
	fresh := func(b *testing.B) *Store {
		s, err := New(Config{Address: "/nowhere", ContentDir: dir, Reconcile: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			walk(b, fresh(b))
		}
	})
	b.Run("again", func(b *testing.B) {
		s := fresh(b)
		for b.Loop() {
			walk(b, s)
		}
	})
}

package cache_test

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
)

// BenchmarkOpen opens and closes a held blob, as every request for one does.
func BenchmarkOpen(b *testing.B) {
	c, err := cache.Open(cache.Config{Dir: b.TempDir(), MaxBytes: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	body := contenttest.Body(1, 5000)
	desc := descriptor("", body)
	if err := c.Put(b.Context(), desc, body); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		blob, err := c.Open(b.Context(), desc.Digest)
		if err != nil {
			b.Fatal(err)
		}
		_ = blob.Close()
	}
}

package cache_test

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
)

func benchCache(b *testing.B, maxBytes int64) *cache.Cache {
	b.Helper()
	c, err := cache.Open(cache.Config{Dir: b.TempDir(), MaxBytes: maxBytes})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// BenchmarkOpen opens and closes a held blob, as every request for one does.
func BenchmarkOpen(b *testing.B) {
	c := benchCache(b, 1<<30)
	body := contenttest.Body(1, 5000)
	desc := descriptor("", body)
	if err := c.Put(b.Context(), "", desc, body); err != nil {
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

// BenchmarkTouch counts uses of many blobs in turn.
func BenchmarkTouch(b *testing.B) {
	c := benchCache(b, 1<<30)
	var held []digest.Digest
	for i := range uint64(256) {
		body := contenttest.Body(i, 100)
		if err := c.Put(b.Context(), "", descriptor("", body), body); err != nil {
			b.Fatal(err)
		}
		held = append(held, digest.FromBytes(body))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		c.Touch(held[i%len(held)])
		i++
	}
}

// BenchmarkPutHeld puts a manifest that is held, as every answer from upstream to a tag does.
func BenchmarkPutHeld(b *testing.B) {
	c := benchCache(b, 1<<30)
	desc := descriptor("", manifestBody)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Put(b.Context(), "", desc, manifestBody); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkArrive has blobs of 64 MiB arrive in the parts that flights write, in a cache that has to evict for each.
func BenchmarkArrive(b *testing.B) {
	const size, part = 64 << 20, 256 << 10
	c := benchCache(b, 256<<20)
	body := contenttest.Body(1, part)
	n := uint64(0)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		n++
		i, err := c.Create("", digest.FromBytes(contenttest.Body(n, 8)), size)
		if err != nil {
			b.Fatal(err)
		}
		for off := int64(0); off < size; off += part {
			if _, err := i.WriteAt(body, off); err != nil {
				b.Fatal(err)
			}
		}
		if err := i.Commit(b.Context(), ""); err != nil {
			b.Fatal(err)
		}
		if err := i.Discard(); err != nil {
			b.Fatal(err)
		}
	}
}

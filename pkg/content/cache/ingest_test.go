package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// checkReader reads an ingest by a file of its own, to the end of the test.
func checkReader(t *testing.T, i *cache.Ingest, want []byte) {
	t.Helper()
	file, err := i.Reader()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer file.Close()
		if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("a reader's file reads differently in the end: %v", err)
		}
	})
}

func TestIngest(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
	body := contenttest.Body(1, 1000)
	dgst := digest.FromBytes(body)
	i, err := c.Create("", dgst, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct{ off, n int64 }{{-1, 10}, {991, 10}, {1000, 1}, {math.MaxInt64, 1}} {
		if n, err := i.WriteAt(make([]byte, w.n), w.off); err == nil || n != 0 {
			t.Errorf("writing %d bytes at %d gave %d, %v", w.n, w.off, n, err)
		}
	}
	checkReader(t, i, body)
	var writers sync.WaitGroup
	for piece := range 10 {
		writers.Go(func() {
			if _, err := i.WriteAt(body[piece*100:piece*100+100], int64(piece*100)); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if holds(t, c, dgst) {
		t.Error("it is held before Commit")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.Commit(ended, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit gave %v, want context.Canceled", err)
	}
	if err := i.Commit(t.Context(), strings.Repeat("x", 256)); err == nil {
		t.Error("a media type of 256 characters was taken")
	}
	if err := i.Commit(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	if err := i.Commit(t.Context(), "a/b"); err == nil {
		t.Error("committed twice")
	}
	if _, err := i.WriteAt(body[:1], 0); err == nil {
		t.Error("written after Commit")
	}
	checkReader(t, i, body)
	if err := os.Remove(blobPath(dir, dgst)); err != nil {
		t.Fatal(err)
	}
	checkReader(t, i, body)
	for range 2 {
		if err := i.Discard(); err != nil {
			t.Error(err)
		}
	}
	if _, err := i.Reader(); err == nil {
		t.Error("a reader came after Discard")
	}
	if n := files(t, dir+"/ingest"); n != 0 {
		t.Errorf("%d files in ingest", n)
	}
}

func TestIngestRefused(t *testing.T) {
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 20})
	for _, dgst := range []digest.Digest{"", "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := c.Create("", dgst, 1); err == nil {
			t.Errorf("Create(%q) was taken", dgst)
		}
	}
	if _, err := c.Create("", digest.FromString(""), -1); err == nil {
		t.Error("a negative size was taken")
	}
	body := []byte("body")
	wrongSize, wrongDigest := descriptor("", body), descriptor("", body)
	wrongSize.Size++
	wrongDigest.Digest = digest.FromString("other")
	for _, desc := range []ocispec.Descriptor{wrongSize, wrongDigest, {Size: 4}} {
		if err := c.Put(t.Context(), "", desc, body); err == nil || holds(t, c, desc.Digest) {
			t.Errorf("Put of %+v gave %v", desc, err)
		}
	}
}

// TestTwoOfOneDigest commits two ingests of one digest while the first is read, and one that mends a rotten file.
func TestTwoOfOneDigest(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
	body := []byte(`{"schemaVersion":2}`)
	dgst := ingest(t, c, ocispec.MediaTypeImageIndex, body)
	first, err := c.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	ingest(t, c, "application/octet-stream", body)
	if got, err := content.ReadAll(t.Context(), first, 100); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the first reads differently: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(blobPath(dir, dgst), bytes.ToUpper(body), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, c, ocispec.MediaTypeImageIndex, body)
	if !bytes.Equal(read(t, c, dgst), body) {
		t.Error("Put left a rotten file in place")
	}
	b, err := c.Open(t.Context(), dgst)
	if err != nil || b.MediaType() != ocispec.MediaTypeImageIndex {
		t.Errorf("media type %q, %v", b.MediaType(), err)
	}
	defer b.Close()
}

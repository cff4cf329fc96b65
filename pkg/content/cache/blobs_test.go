package cache_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
)

// TestTouch has the blob that was put first spared, because it was touched a while after that, and still be evicted
// once all others are wanted more: a touch pins nothing.
func TestTouch(t *testing.T) {
	now := time.Unix(0, 0)
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 2000, Now: func() time.Time { return now }})
	a, b := put(t, c, "", contenttest.Body(1, 1000)), put(t, c, "", contenttest.Body(2, 1000))
	c.Touch(b) // It is asked for once so far, however often within this moment.
	now = now.Add(time.Hour)
	c.Touch(a)
	c.Touch(digest.FromString("not held"))
	d := put(t, c, "", contenttest.Body(3, 1000))
	if !holds(t, c, a) || holds(t, c, b) {
		t.Error("the touched blob was evicted, not the other")
	}
	for range 3 {
		now = now.Add(time.Hour)
		c.Touch(d)
	}
	put(t, c, "", contenttest.Body(4, 1000))
	if holds(t, c, a) || !holds(t, c, d) {
		t.Error("a blob that was touched once stayed for good")
	}
}

// TestForget has a blob go with its tags, and nothing else, for good; who reads it reads on.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
	gone, kept := contenttest.Body(1, 1000), contenttest.Body(2, 1000)
	dgst, other := put(t, c, "", gone), put(t, c, "", kept)
	for name, body := range map[string][]byte{"v1": gone, "latest": gone, "v0": kept} {
		if err := c.SetTag(t.Context(), tagRef(name), content.Tag{Target: descriptor("a/b", body)}); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := c.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for range 2 {
		if err := c.Forget(t.Context(), dgst); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := content.ReadAll(t.Context(), reader, 2000); err != nil || !bytes.Equal(got, gone) {
		t.Errorf("the blob that is being read reads differently: %v", err)
	}
	if n := files(t, filepath.Join(dir, "blobs", "sha256")); n != 1 {
		t.Errorf("%d files, want 1", n)
	}
	checkForgotten(t, c, dgst, other)
	copied := filepath.Join(t.TempDir(), "cache") // As a crash would leave it: nothing waits for Close to be written.
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	checkForgotten(t, openCache(t, cache.Config{Dir: copied, MaxBytes: 1 << 20}), dgst, other)
}

func checkForgotten(t *testing.T, c *cache.Cache, gone, kept digest.Digest) {
	t.Helper()
	if holds(t, c, gone) || !holds(t, c, kept) {
		t.Error("not just the forgotten blob is gone")
	}
	for name, want := range map[string]error{"v1": content.ErrNotFound, "latest": content.ErrNotFound, "v0": nil} {
		if _, err := c.Tag(t.Context(), tagRef(name)); !errors.Is(err, want) {
			t.Errorf("tag %s gave %v, want %v", name, err, want)
		}
	}
}

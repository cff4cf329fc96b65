package cache_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	manifestBody = []byte(`{"schemaVersion":2,"config":{},"layers":[]}`)
	layerBody    = contenttest.Body(1, 300_000)
)

// fillCache makes a cache with a manifest, a layer and a tag, and closes it.
func fillCache(t *testing.T, dir string) {
	t.Helper()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30})
	put(t, c, ocispec.MediaTypeImageManifest, manifestBody)
	ingest(t, c, "application/x-layer", layerBody)
	tag := content.Tag{Target: descriptor(ocispec.MediaTypeImageManifest, manifestBody)}
	if err := c.SetTag(t.Context(), tagRef("v1"), tag); err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
}

// TestRepair starts from what crashes between any two steps leave, and from what others do to a directory.
func TestRepair(t *testing.T) {
	manifest, layer := digest.FromBytes(manifestBody), digest.FromBytes(layerBody)
	for name, test := range map[string]struct {
		damage                  func(dir string) error
		manifestGone, layerGone bool
		layerType               string
		tagGone                 bool
		maxBytes                int64
		aside                   bool
		remains                 string // A path that must be left alone.
	}{
		"nothing": {
			damage: func(string) error { return nil }, layerType: "application/x-layer",
		},
		"file without record": {
			damage:  func(dir string) error { return os.Remove(dir + "/index.db") },
			tagGone: true,
		},
		"record without file": {
			damage:    func(dir string) error { return os.Remove(blobPath(dir, layer)) },
			layerGone: true,
		},
		"size that is not the record's": {
			damage:    func(dir string) error { return os.Truncate(blobPath(dir, layer), 10) },
			layerGone: true,
		},
		"leftovers of ingests": {
			damage: func(dir string) error {
				return errors.Join(os.WriteFile(dir+"/ingest/abc-1", layerBody, 0o600), os.Mkdir(dir+"/ingest/x", 0o700),
					os.WriteFile(dir+"/ingest/x/y", nil, 0o600))
			},
			layerType: "application/x-layer",
		},
		"strange files": {
			damage: func(dir string) error {
				return errors.Join(os.WriteFile(dir+"/blobs/sha256/README", nil, 0o600), os.Mkdir(dir+"/blobs/md5", 0o700),
					os.Symlink("/etc/passwd", blobPath(dir, digest.FromString("link"))))
			},
			layerType: "application/x-layer", remains: "/blobs/sha256/README",
		},
		"bounds lowered": {
			damage: func(string) error { return nil }, maxBytes: 100_000, manifestGone: true, layerGone: true,
		},
		"index of zeros": {
			damage:  func(dir string) error { return os.WriteFile(dir+"/index.db", make([]byte, 32768), 0o600) },
			tagGone: true, aside: true,
		},
		"index that is text": {
			damage:  func(dir string) error { return os.WriteFile(dir+"/index.db", []byte("not an index"), 0o600) },
			tagGone: true, aside: true,
		},
		"index cut short": {
			damage:  func(dir string) error { return os.Truncate(dir+"/index.db", 9000) },
			tagGone: true, aside: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fillCache(t, dir)
			if err := test.damage(dir); err != nil {
				t.Fatal(err)
			}
			if test.maxBytes == 0 {
				test.maxBytes = 1 << 30
			}
			for range 2 { // The second start finds everything in order.
				c := openCache(t, cache.Config{Dir: dir, MaxBytes: test.maxBytes})
				checkBlob(t, c, manifest, manifestBody, ocispec.MediaTypeImageManifest, test.manifestGone)
				checkBlob(t, c, layer, layerBody, test.layerType, test.layerGone)
				if _, err := c.Tag(t.Context(), tagRef("v1")); (err != nil) != test.tagGone {
					t.Errorf("tag: %v", err)
				}
				if n := files(t, dir+"/ingest"); n != 0 {
					t.Errorf("%d files in ingest", n)
				}
				closeCache(t, c)
			}
			if _, err := os.Stat(dir + "/index.db.corrupt"); (err == nil) != test.aside {
				t.Errorf("index moved aside: %v", err)
			}
			if _, err := os.Stat(dir + test.remains); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkBlob(t *testing.T, c *cache.Cache, dgst digest.Digest, body []byte, mediaType string, gone bool) {
	t.Helper()
	if gone {
		if holds(t, c, dgst) {
			t.Errorf("%s is held", dgst)
		}
		return
	}
	b, err := c.Open(t.Context(), dgst)
	if err != nil {
		t.Error(err)
		return
	}
	defer b.Close()
	if got, err := content.ReadAll(t.Context(), b, 1<<30); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%s reads differently: %v", dgst, err)
	}
	if b.MediaType() != mediaType {
		t.Errorf("%s has media type %q, want %q", dgst, b.MediaType(), mediaType)
	}
}

// TestRandomDamage changes random bytes of an index that has many pages. A start must always come out with all blobs,
// and never with a record that is not what was written.
func TestRandomDamage(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30})
	target := descriptor("application/x-target", layerBody)
	put(t, c, "application/x-layer", layerBody)
	for i := range 150 {
		if err := c.SetTag(t.Context(), tagRef(fmt.Sprint("t", i)), content.Tag{Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	closeCache(t, c)
	index, err := os.ReadFile(dir + "/index.db")
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		damaged := bytes.Clone(index)
		for range 1 + random.IntN(20) {
			damaged[random.IntN(len(damaged))] ^= byte(1 + random.IntN(255))
		}
		if seed%4 == 0 {
			damaged = damaged[:random.IntN(len(damaged))]
		}
		if err := os.WriteFile(dir+"/index.db", damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30})
		if b, err := c.Open(t.Context(), target.Digest); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		} else {
			if mt := b.MediaType(); mt != "" && mt != "application/x-layer" {
				t.Errorf("seed %d: media type %q", seed, mt)
			}
			_ = b.Close()
		}
		for i := range 150 {
			tag, err := c.Tag(t.Context(), tagRef(fmt.Sprint("t", i)))
			if err == nil && tag.Target.Digest != target.Digest {
				t.Errorf("seed %d: tag %d says %+v", seed, i, tag)
			}
		}
		if err := c.SetTag(t.Context(), tagRef("new"), content.Tag{Target: target}); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		closeCache(t, c)
	}
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	fillCache(t, dir)
	manifest, layer := digest.FromBytes(manifestBody), digest.FromBytes(layerBody)
	rotten := bytes.Clone(layerBody)
	rotten[len(rotten)/2] ^= 1
	if err := os.WriteFile(blobPath(dir, layer), rotten, 0o600); err != nil {
		t.Fatal(err)
	}
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30}) // A daemon uses the directory meanwhile.
	going, err := c.Create("", digest.FromString("on its way"), 100)
	if err != nil {
		t.Fatal(err)
	}
	var last cache.Progress
	report, err := cache.Verify(t.Context(), dir, func(p cache.Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(manifestBody) + len(layerBody))
	if report.Checked != 2 || report.Bytes != size || report.InFlight != 1 || len(report.Dropped) != 1 ||
		report.Dropped[0].Digest != layer || !strings.Contains(report.Dropped[0].Reason, "sha256:") {
		t.Errorf("report is %+v", report)
	}
	if want := (cache.Progress{Checked: 2, Blobs: 2, Bytes: size, TotalBytes: size, Dropped: 1}); last != want {
		t.Errorf("progress ended with %+v, want %+v", last, want)
	}
	if _, err := c.Open(t.Context(), layer); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("a rotten blob is still served: %v", err)
	}
	if !holds(t, c, manifest) {
		t.Error("a good blob is gone")
	}
	if err := going.Discard(); err != nil {
		t.Errorf("Verify touched a blob on its way: %v", err)
	}
	closeCache(t, c)

	report, err = cache.Verify(t.Context(), dir, nil)
	if err != nil || report.Checked != 1 || len(report.Dropped) != 0 {
		t.Errorf("the second time: %+v, %v", report, err)
	}
	if _, err := cache.Verify(t.Context(), filepath.Join(dir, "elsewhere"), nil); err == nil {
		t.Error("a directory that does not exist verifies")
	}
}

func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	child := command(t, "hold", dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // Its clock makes the wait for the other process short.
		if c, err := cache.Open(cache.Config{Dir: dir, MaxBytes: 1 << 20}); err == nil {
			closeCache(t, c)
			t.Error("two processes have the directory")
		} else if !strings.Contains(err.Error(), "another process has the directory") {
			t.Errorf("unclear error: %v", err)
		}
	})
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	fillCache(t, dir) // Waits for the other to end, and goes on then.
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

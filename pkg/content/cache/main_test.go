package cache_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

// childVariable names what a copy of this test binary has to do instead of running tests, in the directory that
// dirVariable names.
const (
	childVariable = "KIOO_CACHE_TEST_CHILD"
	dirVariable   = "KIOO_CACHE_TEST_DIR"
)

func TestMain(m *testing.M) {
	if child := os.Getenv(childVariable); child != "" {
		if err := runChild(child, os.Getenv(dirVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func runChild(child, dir string) error {
	switch child {
	case "crash":
		return crashChild(dir, 1<<40)
	case "crash-evicting":
		return crashChild(dir, 2<<20)
	case "sendfile":
		return sendfileChild(dir)
	case "hold":
		return holdChild(dir)
	}
	return fmt.Errorf("no child %q", child)
}

// command makes a child of this test binary.
func command(t *testing.T, child, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+child, dirVariable+"="+dir)
	return cmd
}

// holdChild has the cache open until its standard input ends.
func holdChild(dir string) error {
	c, err := cache.Open(cache.Config{Dir: dir, MaxBytes: 1 << 20})
	if err != nil {
		return err
	}
	fmt.Println("open")
	_, err = io.Copy(io.Discard, os.Stdin)
	if err != nil {
		return err
	}
	return c.Close()
}

func openCache(t *testing.T, cfg cache.Config) *cache.Cache {
	t.Helper()
	if cfg.Log.GetSink() == nil {
		cfg.Log = testr.New(t)
	}
	c, err := cache.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeCache(t, c) })
	return c
}

func closeCache(t *testing.T, c *cache.Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func descriptor(mediaType string, body []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
}

func put(t *testing.T, c *cache.Cache, mediaType string, body []byte) digest.Digest {
	t.Helper()
	desc := descriptor(mediaType, body)
	if err := c.Put(t.Context(), "", desc, body); err != nil {
		t.Fatal(err)
	}
	return desc.Digest
}

func holds(t *testing.T, c *cache.Cache, dgst digest.Digest) bool {
	t.Helper()
	b, err := c.Open(t.Context(), dgst)
	if err != nil {
		return false
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	return true
}

func read(t *testing.T, c *cache.Cache, dgst digest.Digest) []byte {
	t.Helper()
	b, err := c.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	body, err := content.ReadAll(t.Context(), b, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// files counts what is in one of the cache's directories.
func files(t *testing.T, dir string) int {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func tagRef(tag string) reference.Reference {
	return reference.Reference{Repository: reference.Repository{Registry: "quay.io", Path: "org/app"}, Tag: tag}
}

func TestConformance(t *testing.T) {
	contenttest.Suite(t, func(t *testing.T) contenttest.Fixture {
		c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 30})
		return contenttest.Fixture{
			Store: c,
			Put:   func(t *testing.T, mediaType string, body []byte) { put(t, c, mediaType, body) },
			Remove: func(t *testing.T, dgst digest.Digest) {
				if err := c.Delete(t.Context(), dgst); err != nil {
					t.Fatal(err)
				}
			},
			SetTag: func(t *testing.T, ref reference.Reference, tag content.Tag) {
				if err := c.SetTag(t.Context(), ref, tag); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestConformanceUnlinked has blobs removed behind the cache's back, as Verify of another process does it.
func TestConformanceUnlinked(t *testing.T) {
	contenttest.Suite(t, func(t *testing.T) contenttest.Fixture {
		dir := t.TempDir()
		c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30})
		return contenttest.Fixture{
			Store: c,
			Put:   func(t *testing.T, mediaType string, body []byte) { ingest(t, c, mediaType, body) },
			Remove: func(t *testing.T, dgst digest.Digest) {
				if err := os.Remove(blobPath(dir, dgst)); err != nil {
					t.Fatal(err)
				}
			},
			SetTag: func(t *testing.T, ref reference.Reference, tag content.Tag) {
				if err := c.SetTag(t.Context(), ref, tag); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func blobPath(dir string, dgst digest.Digest) string {
	return dir + "/blobs/" + dgst.Algorithm().String() + "/" + dgst.Encoded()
}

// ingest makes the cache hold a blob the way flights do: in pieces, the last one first.
func ingest(t *testing.T, c *cache.Cache, mediaType string, body []byte) digest.Digest {
	t.Helper()
	dgst := digest.FromBytes(body)
	i, err := c.Create("", dgst, int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	const piece = 100_000
	for off := len(body) / piece * piece; off >= 0; off -= piece {
		if _, err := i.WriteAt(body[off:min(off+piece, len(body))], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Commit(t.Context(), mediaType); err != nil {
		t.Fatal(err)
	}
	if err := i.Discard(); err != nil {
		t.Fatal(err)
	}
	return dgst
}

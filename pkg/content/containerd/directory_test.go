package containerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// layout is a content directory that a test makes by itself, to do to it what containerd does rarely or never.
type layout string

// put puts a file under the name that its content has, or another, as containerd does: by renaming it.
func (l layout) put(tb testing.TB, name digest.Digest, body []byte) {
	tb.Helper()
	l.mkdir(tb, name.Algorithm())
	tmp := filepath.Join(string(l), "ingest-"+name.Encoded())
	if err := os.WriteFile(tmp, body, 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, l.path(name)); err != nil {
		tb.Fatal(err)
	}
}

func (l layout) mkdir(tb testing.TB, a digest.Algorithm) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Join(string(l), "blobs", a.String()), 0o755); err != nil {
		tb.Fatal(err)
	}
}

func (l layout) path(dgst digest.Digest) string {
	return filepath.Join(string(l), "blobs", dgst.Algorithm().String(), dgst.Encoded())
}

func (l layout) config(reconcile time.Duration) containerd.Config {
	return containerd.Config{Address: "/nowhere/containerd.sock", ContentDir: string(l), Reconcile: reconcile}
}

func TestDirectoryAppears(t *testing.T) {
	around := filepath.Join(t.TempDir(), "var", "lib", "containerd")
	l := layout(filepath.Join(around, "content"))
	s := run(t, l.config(time.Hour))
	heard := listen(t, s)
	eventually(t, "the store says that nothing is there", func() bool { return s.Status().WatchReason != "not started" })
	body := []byte("a blob")
	short, long := digest.FromBytes(body), digest.SHA512.FromBytes(body)
	l.put(t, short, body)
	heard.until(t, "the first blob", func() bool { return heard.has(short) })
	l.put(t, long, body) // Its directory is new.
	heard.until(t, "the second blob", func() bool { return heard.has(long) })

	// Everything goes, and comes back.
	if err := os.RemoveAll(string(l)); err != nil {
		t.Fatal(err)
	}
	heard.until(t, "nothing", func() bool { return heard.hasNone(short, long) })
	l.put(t, short, body)
	heard.until(t, "the first blob again", func() bool { return heard.has(short) })
	if err := os.Remove(l.path(short)); err != nil {
		t.Fatal(err)
	}
	heard.until(t, "nothing again", func() bool { return heard.hasNone(short) })
}

// TestReconcile replaces the directory in a way that no watch shows.
func TestReconcile(t *testing.T) {
	top := t.TempDir()
	l := layout(filepath.Join(top, "lib", "containerd", "content"))
	before, after := digest.FromString("before"), digest.FromString("after")
	l.put(t, before, []byte("before"))
	s := run(t, l.config(20*time.Millisecond))
	heard := listen(t, s)
	heard.until(t, "what was there before", func() bool { return heard.has(before) })
	if err := os.Rename(filepath.Join(top, "lib"), filepath.Join(top, "old")); err != nil {
		t.Fatal(err)
	}
	l.put(t, after, []byte("after"))
	heard.until(t, "what is there now", func() bool { return heard.has(after) && heard.hasNone(before) })
	next := digest.FromString("next")
	l.put(t, next, []byte("next"))
	heard.until(t, "what came then", func() bool { return heard.has(next) })
}

// TestStrangers puts into the directory what is no blob.
func TestStrangers(t *testing.T) {
	l := layout(t.TempDir())
	real := digest.FromString("real")
	empty, truncated := digest.FromString(""), digest.FromString("truncated by a crash")
	for _, dgst := range []digest.Digest{real, empty, truncated} {
		body := []byte(nil)
		if dgst == real {
			body = []byte("real")
		}
		l.put(t, dgst, body)
	}
	dir := digest.FromString("dir")
	for _, name := range []string{l.path(dir), filepath.Join(string(l), "blobs", "md5")} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sha256/short", "sha256/" + digest.FromString("x").Encoded() + ".tmp", "md5/d41d8cd98f00b204e9800998ecf8427e"} {
		if err := os.WriteFile(filepath.Join(string(l), "blobs", name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := run(t, l.config(time.Hour))
	heard := listen(t, s)
	late := digest.FromString("late")
	heard.until(t, "the blobs", func() bool { return heard.has(real, empty) })
	l.put(t, digest.FromString("also truncated"), nil)
	l.put(t, late, []byte("late"))
	heard.until(t, "a later one", func() bool { return heard.has(late) })
	if len(heard.blobs) != 3 {
		t.Errorf("held: %v", heard.blobs)
	}
	for _, dgst := range []digest.Digest{truncated, dir} {
		if b, err := s.Open(t.Context(), dgst); err == nil {
			b.Close()
			t.Errorf("%s can be opened", dgst)
		}
	}
}

// TestMediaTypeIsReadOnce overwrites a manifest that was open before, so that only memory can tell its type.
func TestMediaTypeIsReadOnce(t *testing.T) {
	l := layout(t.TempDir())
	body := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)
	dgst := digest.FromBytes(body)
	l.put(t, dgst, body)
	s := run(t, l.config(time.Hour))
	eventually(t, "the manifest is known", func() bool { return s.Has(dgst) })
	for _, now := range [][]byte{body, []byte("overwritten")} {
		if err := os.WriteFile(l.path(dgst), now, 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := s.Open(t.Context(), dgst)
		if err != nil {
			t.Fatal(err)
		}
		if b.MediaType() != ocispec.MediaTypeImageIndex {
			t.Errorf("media type %q", b.MediaType())
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMetrics(t *testing.T) {
	l := layout(t.TempDir())
	l.put(t, digest.FromString("a"), []byte("a"))
	registry := prometheus.NewPedanticRegistry()
	cfg := l.config(time.Hour)
	cfg.Registerer = registry
	s := run(t, cfg)
	eventually(t, "the directory is watched", func() bool { return s.Status().Watched })
	for name, want := range map[string]string{
		"kioo_containerd_up": "0", "kioo_containerd_watching": "1", "kioo_containerd_blobs": "1", "kioo_containerd_tags": "0",
		"kioo_containerd_missed_changes_total": "0", "kioo_containerd_disconnects_total": "0",
	} {
		n, err := testutil.GatherAndCount(registry, name)
		if err != nil || n != 1 {
			t.Errorf("%s: %d of them, %v", name, n, err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			m := family.GetMetric()[0]
			if got := fmt.Sprint(m.GetGauge().GetValue() + m.GetCounter().GetValue()); family.GetName() == name && got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

var (
	_ content.Store    = (*containerd.Store)(nil)
	_ content.TagStore = (*containerd.Store)(nil)
)

package cache_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestConfigRefused(t *testing.T) {
	for name, cfg := range map[string]cache.Config{
		"no directory":   {MaxBytes: 1},
		"negative bytes": {Dir: t.TempDir(), MaxBytes: -1},
		"negative spool": {Dir: t.TempDir(), SpoolBytes: -1},
		"a file":         {Dir: "/dev/null"},
	} {
		if c, err := cache.Open(cfg); err == nil {
			closeCache(t, c)
			t.Errorf("%s: opened", name)
		}
	}
}

func TestEvictsWhatIsAskedForOnce(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(0, 0)
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 3000, Now: func() time.Time { return now }})
	a, b := put(t, c, "", contenttest.Body(1, 1000)), put(t, c, "", contenttest.Body(2, 1000))
	d := put(t, c, "", contenttest.Body(3, 1000))
	now = now.Add(time.Hour)
	read(t, c, a)
	e := put(t, c, "", contenttest.Body(4, 500))
	for dgst, want := range map[digest.Digest]bool{a: true, b: false, d: true, e: true} {
		if holds(t, c, dgst) != want {
			t.Errorf("%s is held: %v, want %v", dgst, !want, want)
		}
	}
	if n := files(t, filepath.Join(dir, "blobs", "sha256")); n != 3 {
		t.Errorf("%d files, want 3", n)
	}
}

func TestEvictionSparesReaders(t *testing.T) {
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 2000, SpoolBytes: 1400})
	body := contenttest.Body(1, 1500)
	dgst := put(t, c, "", body)
	reader, err := c.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	large := contenttest.Body(2, 1000)
	if err := c.Put(t.Context(), "", descriptor("", large), large); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Put gave %v while all space is being read, want ErrNoSpace", err)
	}
	spooled, err := c.Create("", digest.FromBytes(large), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := spooled.Commit(t.Context(), ""); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Commit gave %v, want ErrNoSpace", err)
	}
	if _, err := c.Create("", digest.FromBytes(large), 1000); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Create gave %v while the spool is full, want ErrNoSpace", err)
	}
	if err := spooled.Discard(); err != nil {
		t.Error(err)
	}
	if got, err := content.ReadAll(t.Context(), reader, 2000); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the blob that is being read reads differently: %v", err)
	}

	// Gone but still read, it takes space as before; then the space is free.
	if err := c.Delete(t.Context(), dgst); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(t.Context(), "", descriptor("", large), large); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Put gave %v, want ErrNoSpace", err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	put(t, c, "", large)
}

func TestNothingKept(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, SpoolBytes: 1 << 20})
	body := []byte("passes by")
	if err := c.Put(t.Context(), "", descriptor("", body), body); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Put gave %v, want ErrNoSpace", err)
	}
	i, err := c.Create("", digest.FromBytes(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.WriteAt(body, 0); err != nil {
		t.Error(err)
	}
	if err := i.Commit(t.Context(), ""); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Commit gave %v, want ErrNoSpace", err)
	}
	checkReader(t, i, body)
	if err := i.Discard(); err != nil {
		t.Error(err)
	}
	if n := files(t, dir+"/ingest") + files(t, dir+"/blobs/sha256"); n != 0 || holds(t, c, digest.FromBytes(body)) {
		t.Errorf("%d files are left", n)
	}
}

func TestTruncatedFileIsAMiss(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
	dgst := put(t, c, "", contenttest.Body(1, 1000))
	if err := os.Truncate(blobPath(dir, dgst), 999); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(t.Context(), dgst); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("Open gave %v, want ErrNotFound", err)
	}
	if n := files(t, dir+"/blobs/sha256"); n != 0 {
		t.Error("the file was not removed")
	}
}

func TestTagsRefused(t *testing.T) {
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 20})
	good := content.Tag{Target: descriptor("a/b", nil)}
	negative := good
	negative.Target.Size = -1
	byDigest := reference.Reference{Repository: tagRef("").Repository, Digest: good.Target.Digest}
	for name, err := range map[string]error{
		"by digest": c.SetTag(t.Context(), byDigest, good),
		"no digest": c.SetTag(t.Context(), tagRef("x"), content.Tag{}),
		"negative":  c.SetTag(t.Context(), tagRef("x"), negative),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestDeleteTag(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir})
	for _, err := range []error{
		c.SetTag(t.Context(), tagRef("x"), content.Tag{Target: descriptor("a/b", nil)}),
		c.DeleteTag(t.Context(), tagRef("x")),
		c.DeleteTag(t.Context(), tagRef("x")),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	closeCache(t, c)
	c = openCache(t, cache.Config{Dir: dir})
	if _, err := c.Tag(t.Context(), tagRef("x")); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("Tag gave %v, want ErrNotFound", err)
	}
}

// TestRunWritesLastUses crashes, so to speak, after Run wrote a use, and looks who is evicted then.
func TestRunWritesLastUses(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	var a, b digest.Digest
	confirmed := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	synctest.Test(t, func(t *testing.T) {
		c := openCache(t, cache.Config{Dir: dir, MaxBytes: 2000})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		a, b = put(t, c, "", contenttest.Body(1, 1000)), put(t, c, "", contenttest.Body(2, 1000))
		tag := content.Tag{Target: descriptor("a/b", nil), Confirmed: confirmed.Add(-time.Hour)}
		if err := c.SetTag(t.Context(), tagRef("x"), tag); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // Of the bubble's clock.
		read(t, c, a)
		tag.Confirmed = confirmed
		if err := c.SetTag(t.Context(), tagRef("x"), tag); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := os.CopyFS(filepath.Join(copied, "cache"), os.DirFS(dir)); err != nil {
			t.Error(err)
		}
		cancel()
		run.Wait()
	})
	c := openCache(t, cache.Config{Dir: filepath.Join(copied, "cache"), MaxBytes: 2000})
	put(t, c, "", contenttest.Body(3, 1000))
	if !holds(t, c, a) || holds(t, c, b) {
		t.Error("the last use was not written")
	}
	if tag, err := c.Tag(t.Context(), tagRef("x")); err != nil || !tag.Confirmed.Equal(confirmed) {
		t.Errorf("tag is %+v, %v: the confirmation was not written", tag, err)
	}
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
	body := contenttest.Body(1, 1000)
	dgst := put(t, c, "", body)
	reader, err := c.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	late, err := c.Create("", digest.FromString("late"), 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.WriteAt([]byte("late"), 0); err != nil {
		t.Error(err)
	}
	closeCache(t, c)
	next := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
	_, openErr := c.Open(t.Context(), dgst)
	_, tagErr := c.Tag(t.Context(), tagRef("x"))
	_, createErr := c.Create("", dgst, 1)
	for name, err := range map[string]error{
		"Open": openErr, "Tag": tagErr, "Create": createErr,
		"Put":       c.Put(t.Context(), "", descriptor("", body), body),
		"Delete":    c.Delete(t.Context(), dgst),
		"Forget":    c.Forget(t.Context(), dgst),
		"SetTag":    c.SetTag(t.Context(), tagRef("x"), content.Tag{Target: descriptor("", body)}),
		"DeleteTag": c.DeleteTag(t.Context(), tagRef("x")),
		"Commit":    late.Commit(t.Context(), ""),
	} {
		if !errors.Is(err, cache.ErrClosed) {
			t.Errorf("%s gave %v, want ErrClosed", name, err)
		}
	}
	if err := late.Discard(); err != nil {
		t.Error(err)
	}
	if got, err := content.ReadAll(t.Context(), reader, 2000); err != nil || !bytes.Equal(got, body) {
		t.Errorf("an open blob reads differently after Close: %v", err)
	}
	if holds(t, next, digest.FromString("late")) || !holds(t, next, dgst) {
		t.Error("the next cache holds something else")
	}
}

// TestChurn has everything happen at once, within bounds that are too narrow for it.
func TestChurn(t *testing.T) {
	dir := t.TempDir()
	registry := prometheus.NewRegistry()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 100_000, SpoolBytes: 50_000, Registerer: registry})
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 0))
			for range 60 {
				seed := random.Uint64N(30)
				body := contenttest.Body(seed, int(seed)*1000)
				dgst := digest.FromBytes(body)
				if b, err := c.Open(t.Context(), dgst); err == nil {
					got, err := content.ReadAll(t.Context(), b, 1<<20)
					if err := errors.Join(err, b.Close()); err != nil || !bytes.Equal(got, body) {
						t.Errorf("blob %d reads differently: %v", seed, err)
					}
					if random.IntN(10) == 0 {
						_ = c.Delete(t.Context(), dgst) // Someone else may have been faster.
					}
					continue
				}
				err := c.Put(t.Context(), "", descriptor("", body), body)
				if err != nil && !errors.Is(err, cache.ErrNoSpace) {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	report, err := cache.Verify(t.Context(), dir, nil)
	if err != nil || len(report.Dropped) > 0 || report.Bytes > 100_000 || report.InFlight > 0 {
		t.Errorf("Verify gave %+v, %v", report, err)
	}
	checkBytes(t, registry, report)
}

// checkBytes compares what the metrics say with what is on the disk.
func checkBytes(t *testing.T, registry *prometheus.Registry, report cache.Report) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if g := f.GetMetric()[0].GetGauge(); g != nil {
			got[f.GetName()] = g.GetValue()
		}
	}
	if got["kioo_cache_bytes"] != float64(report.Bytes) || got["kioo_cache_blobs"] != float64(report.Checked) {
		t.Errorf("metrics say %v, the disk has %+v", got, report)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 2000, Registerer: registry})
	for seed := range uint64(5) {
		put(t, c, "", contenttest.Body(seed, 900))
	}
	want, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(registry, bytes.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

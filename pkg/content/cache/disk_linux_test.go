package cache_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// recorder is a log that can be read.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lines = append(r.lines, args)
	}, funcr.Options{})
}

func (r *recorder) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, line := range r.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func checkDisabled(t *testing.T, registry *prometheus.Registry, want string) {
	t.Helper()
	err := testutil.GatherAndCompare(registry, strings.NewReader(
		"# HELP kioo_cache_disabled 1 while nothing new is cached because the disk is full.\n"+
			"# TYPE kioo_cache_disabled gauge\nkioo_cache_disabled "+want+"\n"), "kioo_cache_disabled")
	if err != nil {
		t.Error(err)
	}
}

// TestFullDisk has a disk run full under the cache, and get room again.
func TestFullDisk(t *testing.T) {
	disk := contenttest.SmallDisk(t)
	synctest.Test(t, func(t *testing.T) {
		var log recorder
		registry := prometheus.NewRegistry()
		c := openCache(t, cache.Config{
			Dir: filepath.Join(disk, "cache"), MaxBytes: 1 << 30, Log: log.logger(), Registerer: registry,
		})
		go func() { _ = c.Run(t.Context()) }()
		first := put(t, c, "", contenttest.Body(1, 1<<20))
		others := contenttest.Fill(t, disk, 100_000)

		checkDisabled(t, registry, "0")
		for range 5 {
			if _, err := c.Create("", digest.FromString("large"), 3<<20); !errors.Is(err, cache.ErrNoSpace) {
				t.Fatalf("Create gave %v, want ErrNoSpace", err)
			}
			small := []byte("small")
			if err := c.Put(t.Context(), "", descriptor("", small), small); !errors.Is(err, cache.ErrNoSpace) {
				t.Fatalf("Put gave %v, want ErrNoSpace", err)
			}
		}
		checkDisabled(t, registry, "1")
		if n := log.count("the disk is full"); n != 1 {
			t.Errorf("%d warnings, want 1: %q", n, log.lines)
		}
		if !holds(t, c, first) {
			t.Error("what is held is no longer served")
		}
		if err := c.SetTag(t.Context(), tagRef("v1"), content.Tag{Target: descriptor("", []byte("x"))}); err != nil &&
			!errors.Is(err, cache.ErrNoSpace) {
			t.Errorf("SetTag gave %v", err)
		}
		if _, err := c.Tag(t.Context(), tagRef("v1")); err != nil {
			t.Errorf("a tag is not remembered: %v", err)
		}

		time.Sleep(time.Minute) // Of the bubble's clock: probes go by, and find nothing.
		synctest.Wait()
		checkDisabled(t, registry, "1")
		if err := os.Remove(others); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		checkDisabled(t, registry, "0")
		body := contenttest.Body(2, 3<<20)
		if !bytes.Equal(read(t, c, ingest(t, c, "", body)), body) {
			t.Error("blob reads differently after the disk had room again")
		}
		if n := log.count("caching goes on"); n != 1 {
			t.Errorf("the log says %d times that there is room again, want 1", n)
		}
	})
}

// TestFullDiskEvicts has others fill the disk while the cache is far from its own bound: it gives way.
func TestFullDiskEvicts(t *testing.T) {
	disk := contenttest.SmallDisk(t)
	registry := prometheus.NewRegistry()
	c := openCache(t, cache.Config{Dir: filepath.Join(disk, "cache"), MaxBytes: 1 << 30, Registerer: registry})
	old := put(t, c, "", contenttest.Body(1, 2<<20))
	used := put(t, c, "", contenttest.Body(2, 2<<20))
	contenttest.Fill(t, disk, 100_000)
	newest := ingest(t, c, "", contenttest.Body(3, 2<<20))
	if holds(t, c, old) || !holds(t, c, used) || !holds(t, c, newest) {
		t.Error("not the least recently used blob made room")
	}
	checkDisabled(t, registry, "0")
}

// TestFullDiskMidway has others fill the disk while a blob arrives: what is held gives way; when nothing is left that
// can, the blob breaks off, what had come can be read, and nothing new is cached.
func TestFullDiskMidway(t *testing.T) {
	disk := contenttest.SmallDisk(t)
	registry := prometheus.NewRegistry()
	c := openCache(t, cache.Config{Dir: filepath.Join(disk, "cache"), MaxBytes: 1 << 30, Registerer: registry})
	held := put(t, c, "", contenttest.Body(2, 1<<20))
	body := contenttest.Body(1, 3<<20)
	i, err := c.Create("", digest.FromBytes(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Discard()
	if _, err := i.WriteAt(body[:1<<20], 0); err != nil {
		t.Fatal(err)
	}
	contenttest.Fill(t, disk, 100_000)
	if _, err := i.WriteAt(body[1<<20:2<<20], 1<<20); err != nil {
		t.Errorf("with a MiB that can be evicted: %v", err)
	}
	if holds(t, c, held) {
		t.Error("nothing was evicted")
	}
	checkDisabled(t, registry, "0")
	if n, err := i.WriteAt(body[2<<20:], 2<<20); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("WriteAt gave %d, %v, want ErrNoSpace", n, err)
	}
	checkDisabled(t, registry, "1")
	got := make([]byte, 2<<20)
	if _, err := i.ReadAt(got, 0); err != nil || !bytes.Equal(got, body[:2<<20]) {
		t.Errorf("what had arrived reads differently: %v", err)
	}
}

// TestFullDiskAtStart has no room even for an index.
func TestFullDiskAtStart(t *testing.T) {
	disk := contenttest.SmallDisk(t)
	dir := filepath.Join(disk, "cache")
	first := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30})
	body := contenttest.Body(1, 1<<20)
	dgst := put(t, first, "", body)
	closeCache(t, first)
	if err := os.Remove(filepath.Join(dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	others := contenttest.Fill(t, disk, 0)
	synctest.Test(t, func(t *testing.T) {
		var log recorder
		registry := prometheus.NewRegistry()
		c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30, Log: log.logger(), Registerer: registry})
		go func() { _ = c.Run(t.Context()) }()
		checkDisabled(t, registry, "1")
		if !bytes.Equal(read(t, c, dgst), body) {
			t.Error("what is held is not served")
		}
		if err := os.Remove(others); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		checkDisabled(t, registry, "0")
		if err := c.SetTag(t.Context(), tagRef("v1"), content.Tag{Target: descriptor("", []byte("x"))}); err != nil {
			t.Error(err)
		}
	})
	again := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 30})
	if _, err := again.Tag(t.Context(), tagRef("v1")); err != nil || !holds(t, again, dgst) {
		t.Errorf("the index was not made once there was room: %v", err)
	}
}

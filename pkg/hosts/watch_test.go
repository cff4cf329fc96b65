package hosts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

type outcome struct {
	result Result
	err    error
}

// startWatcher runs a watcher until the test ends, and gives the outcomes of its passes.
func startWatcher(t *testing.T, cfg WatcherConfig) <-chan outcome {
	t.Helper()
	outcomes := make(chan outcome, 64)
	cfg.Observe = func(r Result, err error) { outcomes <- outcome{r, err} }
	w, err := NewWatcher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return outcomes
}

// await waits for a pass that did something to a directory.
func await(t *testing.T, outcomes <-chan outcome, dir string, action Action) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case o := <-outcomes:
			for _, e := range o.result.Entries {
				if e.Dir == dir && e.Action == action {
					return
				}
			}
		case <-deadline:
			t.Fatalf("%s was not %s", dir, action)
		}
	}
}

func TestWatcherHeals(t *testing.T) {
	root := newRoot(t)
	put(t, root, map[string]string{"a.example/hosts.toml": "server = \"https://u\"\n"})
	// Looking again is an hour away: all of this is heard.
	outcomes := startWatcher(t, WatcherConfig{
		Config: testConfig(root), Recheck: time.Hour, Settle: 50 * time.Millisecond, Pause: time.Millisecond,
	})
	await(t, outcomes, "a.example", Written)
	first := treeOf(t, root)

	path := filepath.Join(root, "a.example/hosts.toml")
	put(t, root, map[string]string{"a.example/hosts.toml": "server = \"https://u\"\n"})
	await(t, outcomes, "a.example", Written)
	if now := treeOf(t, root); !sameButRecords(now, first) {
		t.Errorf("healed to\n%s\nfrom\n%s", now, first)
	}
	if err := os.Remove(filepath.Join(root, "_default/hosts.toml")); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, defaultDir, Written)
	if err := os.RemoveAll(filepath.Join(root, defaultDir)); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, defaultDir, Written)
	if now := treeOf(t, root); !sameButRecords(now, first) {
		t.Errorf("healed to\n%s\nfrom\n%s", now, first)
	}
	if err := os.Mkdir(filepath.Join(root, "new.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "new.example", Written)
	// A certificate that comes later is used, although there is a hosts.toml now.
	cert, _ := certificate(t)
	put(t, root, map[string]string{"new.example/ca.crt": cert})
	await(t, outcomes, "new.example", Written)
	if v := askLinked(t, root, "new.example"); len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) || v.Hosts[1].Authorities == 0 {
		t.Errorf("got %+v", v)
	}
	if err := os.RemoveAll(filepath.Join(root, "new.example")); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "new.example", Removed)

	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "a.example", Written)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("server = \"https://u\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "a.example", Written)
	if now := treeOf(t, root); !sameButRecords(now, first) {
		t.Errorf("healed to\n%s\nfrom\n%s", now, first)
	}
}

func TestWatcherSurvivesLosingTheRoot(t *testing.T) {
	root := newRoot(t)
	outcomes := startWatcher(t, WatcherConfig{
		Config: testConfig(root), Recheck: time.Hour, Settle: 50 * time.Millisecond, Pause: time.Millisecond,
	})
	await(t, outcomes, defaultDir, Written)
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, defaultDir, Written)
	if v := askLinked(t, root, "docker.io"); len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) {
		t.Errorf("got %+v", v)
	}
}

// TestWatcherLooksAgain is about changes that nobody hears of, and about trouble: neither ends the watcher.
func TestWatcherLooksAgain(t *testing.T) {
	root := newRoot(t)
	put(t, root, map[string]string{"bad.example/hosts.toml": "= oops"})
	synctest.Test(t, func(t *testing.T) {
		var got []time.Duration
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cfg := WatcherConfig{Config: testConfig(root), Recheck: 30 * time.Second}
		cfg.Observe = func(r Result, err error) {
			if err == nil {
				t.Error("the bad file was taken")
			}
			if entryOf(t, r, defaultDir).Action != Written {
				t.Errorf("got %+v", r)
			}
			got = append(got, time.Since(start))
			if err := os.RemoveAll(filepath.Join(root, defaultDir)); err != nil {
				t.Error(err)
			}
			if len(got) == 3 {
				cancel()
			}
		}
		w, err := NewWatcher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.loop(ctx, nil, nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		for i, at := range got {
			if at != time.Duration(i)*30*time.Second {
				t.Errorf("passes at %v", got)
			}
		}
	})
}

// TestWatcherWaitsForWriters sends changes to a watcher's loop: it looks when they have settled, and in any case
// after a while.
func TestWatcherWaitsForWriters(t *testing.T) {
	root := newRoot(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []time.Duration
		start := time.Now()
		cfg := WatcherConfig{Config: testConfig(root), Recheck: time.Hour, Settle: time.Second, Pause: 10 * time.Second}
		cfg.Observe = func(Result, error) { got = append(got, time.Since(start)) }
		w, err := NewWatcher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		events, done := make(chan fsnotify.Event), make(chan error)
		go func() { done <- w.loop(ctx, nil, events, nil) }()
		synctest.Wait()
		change := fsnotify.Event{Name: filepath.Join(root, "a", hostsName), Op: fsnotify.Write}
		ours := fsnotify.Event{Name: temp(change.Name), Op: fsnotify.Create}
		at := func(d time.Duration, e fsnotify.Event) {
			time.Sleep(time.Until(start.Add(d))) // The bubble's clock: nothing really waits.
			events <- e
		}
		at(time.Second, change) // Settled at 2 s, but within the pause: looked at at 10 s.
		at(20*time.Second, change)
		at(20*time.Second+500*time.Millisecond, change) // Settled at 21.5 s.
		for i := range 60 {
			at(40*time.Second+time.Duration(i)*500*time.Millisecond, change) // Never settled: at 60 s.
		}
		at(100*time.Second, ours)
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		want := []time.Duration{0, 10 * time.Second, 21500 * time.Millisecond, 60 * time.Second, 70500 * time.Millisecond}
		if !slices.Equal(got, want) {
			t.Errorf("passes at %v, want %v", got, want)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no mirror":    {},
		"https":        {Mirror: "https://127.0.0.1:1"},
		"path":         {Mirror: "http://127.0.0.1:1/v2"},
		"user":         {Mirror: "http://u@127.0.0.1:1"},
		"quote":        {Mirror: "http://a\"b"},
		"relative":     {Root: "certs.d", Mirror: testMirror},
		"slash":        {Root: "/..", Mirror: testMirror},
		"node root":    {NodeRoot: "x", Mirror: testMirror},
		"registry":     {Mirror: testMirror, Registries: []string{"a/b"}},
		"default":      {Mirror: testMirror, Registries: []string{"_default"}},
		"dots":         {Mirror: testMirror, Registries: []string{".."}},
		"empty":        {Mirror: testMirror, Registries: []string{""}},
		"huge port":    {Mirror: testMirror, Registries: []string{"a:123456"}},
		"many by far":  {Mirror: testMirror, Registries: many(maxDirs + 1)},
		"control char": {Mirror: testMirror, Registries: []string{"a\nb"}},
	} {
		if _, err := Configure(context.Background(), cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
		if _, err := NewWatcher(WatcherConfig{Config: cfg}); err == nil {
			t.Errorf("%s was taken by a watcher", name)
		}
	}
	root := newRoot(t)
	result := mustConfigure(t, Config{Root: root, Mirror: "http://[::1]:28500/",
		Registries: []string{"[::1]:5000", "Docker.IO"}})
	if len(result.Entries) != 2 || entryOf(t, result, "[::1]_5000_").Action != Written {
		t.Errorf("got %+v", result)
	}
	for _, host := range []string{"[::1]:5000", "docker.io"} {
		if v := askLinked(t, root, host); len(v.Hosts) != 2 || v.Hosts[0].Host != "[::1]:28500" ||
			v.Hosts[0].Scheme != "http" {
			t.Errorf("got %+v", v)
		}
	}
}

func many(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = "r" + time.Duration(i).String()
	}
	return list
}

// TestPassesWaitForEachOther runs many at once: locks keep them apart, and the outcome is that of one.
func TestPassesWaitForEachOther(t *testing.T) {
	parent := t.TempDir()
	root := filepath.Join(parent, "certs.d")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = Configure(context.Background(), testConfig(root))
			} else {
				_, err = Cleanup(context.Background(), testConfig(root))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mustCleanup(t, root)
	if now := treeOf(t, parent); now != ". drwxr-xr-x\n" {
		t.Errorf("left\n%s", now)
	}
}

package containerd_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

// patience is how long tests wait for what should come at once, on a machine that does much else.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eachVersion runs a test with every version of containerd that is supported.
func eachVersion(t *testing.T, test func(*testing.T, containerdtest.Version)) {
	for _, version := range containerdtest.Versions() {
		t.Run(string(version), func(t *testing.T) { test(t, version) })
	}
}

// eachWay runs a test with every version of containerd, and with its content directory mounted or not.
func eachWay(t *testing.T, test func(t *testing.T, version containerdtest.Version, mounted bool)) {
	eachVersion(t, func(t *testing.T, version containerdtest.Version) {
		t.Run("directory", func(t *testing.T) { test(t, version, true) })
		t.Run("API", func(t *testing.T) { test(t, version, false) })
	})
}

// configFor is how to read a containerd. Comparisons are so rare that nothing is found out by them.
func configFor(t *testing.T, c *containerdtest.Containerd, mounted bool) containerd.Config {
	cfg := containerd.Config{Address: c.Address(), Reconcile: time.Hour, Log: testr.New(t)}
	if mounted {
		cfg.ContentDir = c.ContentDir()
	}
	return cfg
}

// run runs a store for the length of a test.
func run(t *testing.T, cfg containerd.Config) *containerd.Store {
	t.Helper()
	s, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// ready is run, and waits until the store is up to date.
func ready(t *testing.T, cfg containerd.Config) *containerd.Store {
	t.Helper()
	s := run(t, cfg)
	eventually(t, "the store is up to date", func() bool {
		st := s.Status()
		// containerd 1.7 makes the directory when it needs it.
		return st.Connected && (st.Watched || cfg.ContentDir == "" || strings.Contains(st.WatchReason, "not there yet"))
	})
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-ticker.C
	}
}

// listener believes what a feed says.
type listener struct {
	store *containerd.Store
	feed  *containerd.Feed
	blobs map[digest.Digest]bool
	tags  map[reference.Reference]digest.Digest
}

func listen(t *testing.T, s *containerd.Store) *listener {
	l := &listener{
		store: s,
		feed:  s.Feed(),
		blobs: make(map[digest.Digest]bool),
		tags:  make(map[reference.Reference]digest.Digest),
	}
	t.Cleanup(l.feed.Close)
	return l
}

func (l *listener) hear(t *testing.T, c containerd.Change) {
	t.Helper()
	for _, dgst := range c.Added {
		if l.blobs[dgst] {
			t.Errorf("%s came twice", dgst)
		}
		l.blobs[dgst] = true
	}
	for _, dgst := range c.Removed {
		if !l.blobs[dgst] {
			t.Errorf("%s went and had never come", dgst)
		}
		delete(l.blobs, dgst)
	}
	for _, tag := range c.Tags {
		l.tags[tag.Ref] = tag.Target.Digest
	}
	for _, ref := range c.Untagged {
		if l.tags[ref] == "" {
			t.Errorf("%s went and had never come", ref)
		}
		delete(l.tags, ref)
	}
}

// until hears changes until what was heard is as wanted.
func (l *listener) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		c, err := l.feed.Next(ctx)
		if err != nil {
			t.Fatalf("waited in vain: %s; heard of %d blobs and of tags %v", what, len(l.blobs), l.tags)
		}
		l.hear(t, c)
	}
}

func (l *listener) has(digests ...digest.Digest) bool {
	return !slices.ContainsFunc(digests, func(d digest.Digest) bool { return !l.blobs[d] })
}

func (l *listener) hasNone(digests ...digest.Digest) bool {
	return !slices.ContainsFunc(digests, func(d digest.Digest) bool { return l.blobs[d] })
}

func parse(t *testing.T, name string) reference.Reference {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

package containerd

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// world is a dumb model of what a ledger is told: it works everything out anew each time.
type world struct {
	blobs   map[digest.Digest]int64
	records map[source]record
}

func (w world) tags() map[string]meaning {
	tags := make(map[string]meaning)
	for _, r := range w.records {
		if size, held := w.blobs[r.target]; !held || size != r.size {
			continue
		}
		name := r.ref.String()
		if old, ok := tags[name]; !ok || r.confirmed.After(old.confirmed) ||
			r.confirmed.Equal(old.confirmed) && r.target > old.target {
			tags[name] = r.meaning
		}
	}
	return tags
}

// change makes a random change to the world, and tells the ledger of it.
func (w world) change(random *rand.Rand, l *ledger) {
	dgst := digest.FromString(fmt.Sprint(random.IntN(12)))
	size := int64(random.IntN(2)) // Of two, so that records are wrong about it now and then.
	src := source{fmt.Sprint("ns", random.IntN(2)), fmt.Sprint(random.IntN(6))}
	someRecord := func() record {
		return record{
			ref: reference.Reference{
				Repository: reference.Repository{Registry: "a.example", Path: fmt.Sprint("p", random.IntN(4))}, Tag: "v1",
			},
			meaning: meaning{target: dgst, size: size, confirmed: time.Unix(int64(random.IntN(4)), 0)},
		}
	}
	switch random.IntN(9) {
	case 0, 1, 2:
		w.blobs[dgst] = size
		l.put(dgst, size, time.Unix(0, 0))
	case 3, 4:
		delete(w.blobs, dgst)
		l.drop(dgst)
	case 5, 6:
		w.records[src] = someRecord()
		l.setRecord(src, w.records[src])
	case 7:
		delete(w.records, src)
		l.removeRecord(src)
	case 8:
		records := make(map[string]record)
		for i := range random.IntN(4) {
			records[fmt.Sprint(i)] = someRecord()
		}
		maps.DeleteFunc(w.records, func(s source, _ record) bool { return s.namespace == src.namespace })
		for name, r := range records {
			w.records[source{src.namespace, name}] = r
		}
		l.setRecords(src.namespace, records)
	}
}

// hearer believes what a feed tells.
type hearer struct {
	feed  *Feed
	blobs map[digest.Digest]bool
	tags  map[string]meaning
}

// catchUp hears everything that is to be told.
func (h *hearer) catchUp(t *testing.T) {
	t.Helper()
	for c := h.feed.take(); c.Len() > 0; c = h.feed.take() {
		for _, dgst := range c.Added {
			if h.blobs[dgst] {
				t.Fatalf("%s added twice", dgst)
			}
			h.blobs[dgst] = true
		}
		for _, dgst := range c.Removed {
			if !h.blobs[dgst] {
				t.Fatalf("%s removed and never added", dgst)
			}
			delete(h.blobs, dgst)
		}
		for _, tag := range c.Tags {
			h.tags[tag.Ref.String()] = meaning{target: tag.Target.Digest, size: tag.Target.Size, confirmed: tag.Confirmed}
		}
		for _, ref := range c.Untagged {
			if _, ok := h.tags[ref.String()]; !ok {
				t.Fatalf("%s untagged and never tagged", ref)
			}
			delete(h.tags, ref.String())
		}
	}
}

func newTestStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	cfg.Address = "/nowhere"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFeedsAgainstModel makes random changes and looks whether several feeds, which are read at random times and begin
// at random times, tell what is so.
func TestFeedsAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := newTestStore(t, Config{})
		w := world{blobs: make(map[digest.Digest]int64), records: make(map[source]record)}
		var hearers []*hearer
		for step := range 200 {
			if step%50 == 0 {
				hearers = append(hearers, &hearer{s.Feed(), make(map[digest.Digest]bool), make(map[string]meaning)})
			}
			w.change(random, s.ledger)
			h := hearers[random.IntN(len(hearers))]
			if random.IntN(4) > 0 {
				continue
			}
			h.catchUp(t)
			if len(h.blobs) != len(w.blobs) || !maps.Equal(h.tags, w.tags()) {
				t.Fatalf("seed %d, step %d: heard of %d blobs and %v, held are %d and %v", seed, step,
					len(h.blobs), h.tags, len(w.blobs), w.tags())
			}
			if s.Status().Tags != len(w.tags()) {
				t.Fatalf("seed %d, step %d: %d tags, want %d", seed, step, s.Status().Tags, len(w.tags()))
			}
		}
		// What goes leaves nothing behind.
		for _, namespace := range []string{"ns0", "ns1"} {
			s.ledger.setRecords(namespace, nil)
		}
		if l := s.ledger; len(l.tags)+len(l.records)+len(l.targets)+l.visible != 0 {
			t.Fatalf("seed %d: left are %v, %v, %v, %d", seed, l.tags, l.records, l.targets, l.visible)
		}
	}
}

func TestBounds(t *testing.T) {
	s := newTestStore(t, Config{MaxBlobs: 10, MaxTags: 5})
	f := s.Feed()
	defer f.Close()
	for round := range 3 {
		for i := range 30 {
			dgst := digest.FromString(fmt.Sprint(round, i))
			s.put(dgst, 1, time.Time{})
			s.ledger.setRecord(source{"ns", fmt.Sprint(round, i)}, record{
				ref:     reference.Reference{Repository: reference.Repository{Registry: "a.b", Path: fmt.Sprint("p", i)}, Tag: "v1"},
				meaning: meaning{target: dgst, size: 1},
			})
		}
		if l := s.ledger; len(l.blobs) != 10 || len(l.records) != 5 || len(f.blobs) > 20 || len(f.tags) > 10 {
			t.Fatalf("%d blobs, %d records; %d and %d to be told", len(l.blobs), len(l.records), len(f.blobs), len(f.tags))
		}
		for _, dgst := range s.ledger.missing(nil) {
			s.drop(dgst)
		}
		s.ledger.setRecords("ns", nil)
		if n := len(f.blobs) + len(f.tags); n != 0 {
			t.Fatalf("%d keys to be told that came and went unheard", n)
		}
	}
}

func TestFeedComesInParts(t *testing.T) {
	s := newTestStore(t, Config{})
	for i := range maxChange + 1 {
		s.put(digest.FromString(fmt.Sprint(i)), 1, time.Time{})
	}
	f := s.Feed()
	for _, want := range []int{maxChange, 1} {
		if c, err := f.Next(t.Context()); err != nil || c.Len() != want {
			t.Errorf("%d keys, %v, want %d", c.Len(), err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := f.Next(ctx); err == nil || c.Len() != 0 {
		t.Errorf("%d keys, %v after everything", c.Len(), err)
	}
	f.Close()
	s.put(digest.FromString("late"), 1, time.Time{})
	if c := f.take(); c.Len() != 0 {
		t.Error("a closed feed hears on")
	}
}

func TestParseName(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for name, want := range map[string]string{
		"docker.io/library/nginx:1.27":               "docker.io/library/nginx:1.27",
		"docker.io/nginx:1.27":                       "docker.io/library/nginx:1.27",
		"index.docker.io/library/nginx:1":            "docker.io/library/nginx:1",
		"docker.io/nginx":                            "docker.io/library/nginx:latest",
		"Registry.Example.com:5000/org/app:v1":       "registry.example.com:5000/org/app:v1",
		"localhost/app:v1":                           "localhost/app:v1",
		"[::1]:5000/app:v1":                          "[::1]:5000/app:v1",
		"nginx:1.27":                                 "",
		"library/nginx:1.27":                         "",
		"sha256:" + hex:                              "",
		"docker.io/library/nginx@sha256:" + hex:      "",
		"docker.io/library/nginx:1.27@sha256:" + hex: "",
		"docker.io/Library/nginx:1":                  "",
		"docker.io/":                                 "",
		"":                                           "",
	} {
		ref, ok := parseName(name)
		if got := ref.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v, want %q", name, got, ok, want)
		}
	}
}

func FuzzRecordOf(f *testing.F) {
	good := digest.FromString("").String()
	f.Add("docker.io/library/nginx:1", good, int64(5), int64(7))
	f.Add("a.b/c", "sha256:..", int64(-1), int64(-1))
	f.Add("", "", int64(0), int64(1)<<62)
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, name, dgst string, size, written int64) {
		image := &imagesapi.Image{
			Name: name, Target: &types.Descriptor{Digest: dgst, Size: size}, UpdatedAt: &timestamppb.Timestamp{Seconds: written},
		}
		r, ok := recordOf(image, now)
		if !ok {
			return
		}
		again, err := reference.Parse(r.ref.String())
		if err != nil || again != r.ref || r.ref.Tag == "" {
			t.Errorf("%q became %q, which reads as %q, %v", name, r.ref, again, err)
		}
		if _, err := reference.ParseDigest(r.target.String()); err != nil || r.size < 0 || r.confirmed.After(now) {
			t.Errorf("%+v", r)
		}
	})
}

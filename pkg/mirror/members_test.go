package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	p2p "github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// town is members that really serve, and a list of them that stands in for discovery.
type town struct {
	creds   *peer.Credentials
	members []discovery.Provider

	mu   sync.Mutex
	dead []p2p.ID
}

func newTown(t *testing.T) *town {
	t.Helper()
	creds, err := peer.NewCredentials([]peer.Key{peer.NewKey()}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &town{creds: creds}
}

// Providers implements mirror.Finder.
func (w *town) Providers(context.Context, discovery.Key) ([]discovery.Provider, error) {
	return w.members, nil
}

// ReportDead implements mirror.Finder.
func (w *town) ReportDead(id p2p.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = append(w.dead, id)
}

// add starts a member.
func (w *town) add(t *testing.T, name string, handler http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := peer.NewServer(peer.ServerConfig{Handler: handler, Credentials: w.creds, Drain: time.Millisecond, Log: logr.Discard()})
	go func() { done <- server.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.members = append(w.members, discovery.Provider{Member: discovery.Member{ID: p2p.ID(name), PeerAPI: []string{l.Addr().String()}}})
}

func (w *town) open(t *testing.T) *mirror.Members {
	t.Helper()
	client := peer.NewClient(peer.ClientConfig{Credentials: w.creds, FirstByte: 2 * time.Second, Progress: time.Second})
	t.Cleanup(client.Close)
	m, err := mirror.NewMembers(w, client, time.Now, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var (
	blob = bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB.
	ref  = reference.Reference{Repository: reference.Repository{Registry: "quay.io", Path: "org/app"}, Digest: digest.FromBytes(blob)}
)

func holds(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}
}

// late leaves the first word to others.
func late(then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		then(w, r)
	}
}

func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func lacks(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }

// half sends half of the blob's rest, and then does as told.
func half(then func(*http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = w.Write(blob[:len(blob)/2])
		_ = http.NewResponseController(w).Flush()
		then(r)
	}
}

func TestBlobFromMembers(t *testing.T) {
	died := func(*http.Request) { panic(http.ErrAbortHandler) }
	stalled := func(r *http.Request) { <-r.Context().Done() }
	for _, test := range []struct {
		name    string
		members []http.HandlerFunc
		fails   bool
		dead    []p2p.ID
	}{
		{name: "one has it", members: []http.HandlerFunc{holds(blob)}},
		{name: "the first does not after all", members: []http.HandlerFunc{lacks, lacks, lacks, holds(blob)}},
		{name: "the first three are silent", members: []http.HandlerFunc{silent, silent, holds(blob)}},
		{name: "one dies half-way", members: []http.HandlerFunc{half(died), late(holds(blob))}, dead: []p2p.ID{"0"}},
		{name: "one stalls half-way", members: []http.HandlerFunc{half(stalled), late(holds(blob))}, dead: []p2p.ID{"0"}},
		{name: "nobody has it", members: []http.HandlerFunc{lacks, lacks}, fails: true},
		{name: "there is nobody", fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newTown(t)
			for i, handler := range test.members {
				w.add(t, fmt.Sprint(i), handler)
			}
			in, err := w.open(t).Source(ref, access.Ungoverned(ref.Repository)).Open(t.Context(), 0, -1)
			if (err != nil) != test.fails {
				t.Fatalf("open: %v", err)
			}
			if err != nil {
				return
			}
			defer in.Close()
			got, err := io.ReadAll(in)
			if err != nil || !bytes.Equal(got, blob) {
				t.Errorf("%d bytes of %d, %v", len(got), len(blob), err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if !slices.Equal(w.dead, test.dead) {
				t.Errorf("reported as dead: %q, want %q", w.dead, test.dead)
			}
		})
	}
}

func TestRangeFromMembers(t *testing.T) {
	w := newTown(t)
	w.add(t, "0", holds(blob))
	in, err := w.open(t).Source(ref, access.Ungoverned(ref.Repository)).Open(t.Context(), 100, 300)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, blob[100:300]) || in.Size() != int64(len(blob)) {
		t.Errorf("%d bytes of %d, %v", len(got), in.Size(), err)
	}
}

func TestCancelledWhileMembersAreSilent(t *testing.T) {
	w := newTown(t)
	w.add(t, "0", silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.open(t).Source(ref, access.Ungoverned(ref.Repository)).Open(ctx, 0, -1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if len(w.dead) != 0 {
		t.Error("a member was called dead because we were in a hurry")
	}
}

// TestWrongBytesFromAMember has the whole flight: the liar is blamed and not asked again, the next member stands in.
func TestWrongBytesFromAMember(t *testing.T) {
	wrong := bytes.Clone(blob)
	wrong[99] ^= 1
	w := newTown(t)
	var asked sync.Map
	note := func(name string, h http.HandlerFunc) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			n, _ := asked.LoadOrStore(name, new(int))
			*n.(*int)++
			h(rw, r)
		}
	}
	w.add(t, "liar", note("liar", holds(wrong)))
	members := w.open(t)
	for round, want := range []bool{false, true} {
		if round == 1 {
			w.add(t, "honest", note("honest", holds(blob)))
		}
		g := flight.New(flight.Config{
			Create: func(_ content.Owner, _ digest.Digest, size int64) (flight.Spool, error) { return newFileSpool(t) },
			Held:   func(digest.Digest) bool { return false },
		})
		var got bytes.Buffer
		r, err := g.Join(t.Context(), "", "", ref.Digest, flight.SizeHint{}, members.Source(ref, access.Ungoverned(ref.Repository)))
		if err == nil {
			_, err = r.CopyRange(t.Context(), &got, 0, r.Size())
			r.Close()
		}
		if (err == nil && bytes.Equal(got.Bytes(), blob)) != want {
			t.Errorf("round %d: %d bytes, %v", round, got.Len(), err)
		}
		g.Close()
	}
	if n, _ := asked.Load("liar"); *n.(*int) != 1 {
		t.Errorf("the liar was asked %d times", *n.(*int))
	}
}

func TestManifestFromMembers(t *testing.T) {
	body := []byte(`{"schemaVersion":2,"config":{},"layers":[]}`)
	mref := ref
	mref.Digest = digest.FromBytes(body)
	w := newTown(t)
	w.add(t, "0", lacks)
	w.add(t, "1", holds([]byte("something else")))
	w.add(t, "2", holds(body))
	m := w.open(t)
	for range 2 {
		desc, got, err := m.Manifest(t.Context(), mref, access.ClaimChecked)
		if err != nil || !bytes.Equal(got, body) || desc.Digest != mref.Digest || desc.Size != int64(len(body)) {
			t.Errorf("%+v, %q, %v", desc, got, err)
		}
	}
}

func TestNewestTagCounts(t *testing.T) {
	old, young := digest.FromString("old"), digest.FromString("young")
	says := func(d digest.Digest, age string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", d.String())
			w.Header().Set("Content-Type", "application/test")
			w.Header().Set("Content-Length", "7")
			w.Header().Set("Age", age)
		}
	}
	tag := reference.Reference{Repository: ref.Repository, Tag: "v1"}
	w := newTown(t)
	m := w.open(t)
	if _, _, err := m.Tag(t.Context(), tag, access.ClaimChecked); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("nobody knows it: %v", err)
	}
	w.add(t, "0", says(old, "500"))
	w.add(t, "1", says(young, "20"))
	w.add(t, "2", lacks)
	got, vouched, err := m.Tag(t.Context(), tag, access.ClaimChecked)
	if err != nil || !vouched || got.Target.Digest != young || time.Since(got.Confirmed).Round(10*time.Second) != 20*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
}

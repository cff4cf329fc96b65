package mirror_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/access/accesstest"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// runtimeStore is a runtime that holds one image under one tag.
type runtimeStore struct {
	tag    reference.Reference
	target digest.Digest
	held   map[digest.Digest][]byte
	since  time.Time
	labels map[digest.Digest]reference.Repository
	looked int
}

func (s *runtimeStore) Open(_ context.Context, dgst digest.Digest) (content.Blob, error) {
	if body, ok := s.held[dgst]; ok {
		return content.Bytes{Body: body}, nil
	}
	return nil, content.ErrNotFound
}

func (s *runtimeStore) Tag(_ context.Context, ref reference.Reference) (content.Tag, error) {
	if ref != s.tag {
		return content.Tag{}, content.ErrNotFound
	}
	return content.Tag{Target: ocispec.Descriptor{Digest: s.target, Size: int64(len(s.held[s.target]))}}, nil
}

func (s *runtimeStore) Claims() ([]content.Claim, bool) {
	s.looked++
	return []content.Claim{{Repository: s.tag.Repository, Target: s.target}}, true
}

func (s *runtimeStore) Labels(_ context.Context, each func(host, path string, dgst digest.Digest)) error {
	for dgst, source := range s.labels {
		each(source.Registry, source.Path, dgst)
	}
	return nil
}

func (s *runtimeStore) Held(dgst digest.Digest) (time.Time, bool) {
	_, ok := s.held[dgst]
	return s.since, ok
}

// imported makes a runtime that got an image past the mirror.
func imported(t *testing.T) (s *runtimeStore, layer, stray digest.Digest) {
	t.Helper()
	s = &runtimeStore{held: map[digest.Digest][]byte{}, tag: reference.Reference{Repository: ref.Repository, Tag: "v1"}}
	put := func(v any) ocispec.Descriptor {
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(body)
		s.held[d] = body
		return ocispec.Descriptor{Digest: d, Size: int64(len(body))}
	}
	l, other := put("layer"), put("stray")
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put("config"), Layers: []ocispec.Descriptor{l}}
	manifest := put(m)
	manifest.MediaType = ocispec.MediaTypeImageManifest
	s.target = put(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest}}).Digest
	return s, l.Digest, other.Digest
}

// TestLocalGivesByName has a member ask for what came to this node past the mirror.
func TestLocalGivesByName(t *testing.T) {
	store, layer, stray := imported(t)
	now := time.Now()
	book := access.New(access.Config{OpenFor: time.Hour, Now: func() time.Time { return now }})
	local := &mirror.Local{
		Held: []mirror.Held{{Name: "runtime", Store: store}}, Runtime: []content.TagStore{store},
		Now: func() time.Time { return now }, Access: book,
	}
	other := reference.Repository{Registry: ref.Registry, Path: "org/other"}
	get := func(repo reference.Repository, dgst digest.Digest, claim access.Claim) bool {
		t.Helper()
		a, err := local.Blob(t.Context(), reference.Reference{Repository: repo, Digest: dgst}, false, upstream.Origin{Claim: claim})
		_, _, serr := local.Stat(t.Context(), reference.Reference{Repository: repo, Digest: dgst}, upstream.Origin{Claim: claim})
		if (err == nil) != (serr == nil) || err != nil && !errors.Is(err, content.ErrNotFound) {
			t.Errorf("blob: %v; stat: %v", err, serr)
		}
		if err == nil {
			a.Blob.Close()
		}
		return err == nil
	}
	for _, test := range []struct {
		repo  reference.Repository
		dgst  digest.Digest
		claim access.Claim
		want  bool
	}{
		{ref.Repository, layer, access.ClaimChecked, true},
		{ref.Repository, layer, access.ClaimOffline, true},
		{ref.Repository, layer, access.ClaimOpen, false},
		{ref.Repository, layer, "", false},
		{ref.Repository, stray, access.ClaimChecked, false},
		{other, layer, access.ClaimChecked, false},
		{other, layer, access.ClaimOffline, false},
	} {
		if got := get(test.repo, test.dgst, test.claim); got != test.want {
			t.Errorf("%s in %s, claim %q: %v", test.dgst, test.repo, test.claim, got)
		}
	}
	for claim, want := range map[access.Claim]bool{access.ClaimChecked: true, access.ClaimOpen: false, access.ClaimOffline: true} {
		_, err := local.Manifest(t.Context(), store.tag, upstream.Origin{Claim: claim})
		if (err == nil) != want {
			t.Errorf("the tag, claim %q: %v", claim, err)
		}
	}
	accesstest.Refuse(book, ref.Repository, access.Credentials{}, "Bearer x")
	if get(ref.Repository, layer, access.ClaimOffline) || !get(ref.Repository, layer, access.ClaimChecked) {
		t.Error("what upstream said of the repository makes no difference")
	}
	// What the runtime says is read now and then, and not for each request.
	if store.looked != 1 {
		t.Errorf("the runtime's images were looked through %d times", store.looked)
	}
	now = now.Add(time.Minute)
	get(other, layer, access.ClaimChecked)
	if store.looked != 2 {
		t.Errorf("after a minute they were looked through %d times", store.looked)
	}
}

// TestMembersHearTheClaim has members asked on some ground.
func TestMembersHearTheClaim(t *testing.T) {
	w := newTown(t)
	claims := make(chan string, 1)
	w.add(t, "member", func(rw http.ResponseWriter, r *http.Request) {
		claims <- r.Header.Get(peer.ClaimHeader)
		if r.Header.Get("Authorization") != "" {
			t.Error("a member got credentials")
		}
		holds(blob)(rw, r)
	})
	members := w.open(t)
	for _, claim := range []access.Claim{access.ClaimOffline, access.ClaimChecked, access.ClaimOpen, ""} {
		if _, _, err := members.Manifest(t.Context(), ref, claim); err != nil {
			t.Fatal(err)
		}
		if got := <-claims; got != string(claim) {
			t.Errorf("the member heard %q instead of %q", got, claim)
		}
	}
}

// TestRefusedClaimNothing has a client that upstream refuses ask for what this node and a member know: the member is
// told nothing that would make it give it away, on whatever way the request goes on.
func TestRefusedClaimNothing(t *testing.T) {
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer remote.Close()
	for _, client := range []access.Credentials{{}, access.NewCredentials("Basic eDp5")} {
		for _, seen := range []bool{true, false} {
			var mu sync.Mutex
			claims := map[string]int{}
			w := newTown(t)
			w.add(t, "member", func(rw http.ResponseWriter, r *http.Request) {
				mu.Lock()
				claims[r.Header.Get(peer.ClaimHeader)]++
				mu.Unlock()
				lacks(rw, r)
			})
			book := access.New(access.Config{AcceptedFor: time.Minute, RefusedFor: time.Minute, OpenFor: time.Hour, Now: time.Now})
			if seen {
				book.Saw(ref.Repository, ref.Digest)
			}
			up, err := upstream.New(upstream.Config{
				Registries: func(reference.Repository) upstream.Registry {
					return upstream.Registry{Endpoints: []upstream.Endpoint{{URL: remote.URL}}}
				},
				Observe: book.Learn,
			})
			if err != nil {
				t.Fatal(err)
			}
			m, flights := newGuarded(t, mirror.Config{Members: w.open(t), Upstream: up, Access: book})
			for range 2 {
				for what, ask := range map[string]func(context.Context, reference.Reference, upstream.Origin) error{
					"manifest": func(ctx context.Context, ref reference.Reference, o upstream.Origin) error {
						_, err := m.Manifest(ctx, ref, o)
						return err
					},
					"blob": func(ctx context.Context, ref reference.Reference, o upstream.Origin) error {
						_, err := m.Blob(ctx, ref, false, o)
						return err
					},
				} {
					var denied *mirror.Denied
					if err := ask(t.Context(), ref, upstream.Origin{Credentials: client}); !errors.As(err, &denied) || len(denied.Challenge) != 1 {
						t.Errorf("%s, seen %v, client %v: %v", what, seen, client, err)
					}
				}
			}
			m.Close()
			flights.Close()
			up.Close()
			if len(claims) > 0 {
				t.Errorf("seen %v, client %v: the member heard %v", seen, client, claims)
			}
		}
	}
}

// newGuarded makes a mirror that keeps things in a cache of its own.
func newGuarded(t *testing.T, cfg mirror.Config) (*mirror.Mirror, *flight.Group) {
	t.Helper()
	store, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 20, SpoolBytes: 16 << 20, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Held, cfg.Keeper = []mirror.Held{{Name: "cache", Store: store}}, store
	cfg.Flights = flight.New(flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			return store.Create(owner, dgst, size)
		},
		Held: func(digest.Digest) bool { return false },
		Log:  logr.Discard(),
	})
	m, err := mirror.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m, cfg.Flights
}

func ExampleDenied() {
	denied := &mirror.Denied{Repository: ref.Repository, Challenge: []string{`Basic realm="x"`}}
	fmt.Println(denied, errors.Is(denied, upstream.ErrDenied))
	// Output: quay.io/org/app: upstream wants to know who asks true
}

package mirror_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestTagOrder says who is asked for a tag, by what this node and a member know of it and whether it is one that moves.
func TestTagOrder(t *testing.T) {
	body := func(name string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"layers":[],"config":{},"annotations":{"from":%q}}`, name)
	}
	own, member, registry := body("own"), body("member"), body("registry")
	const never = -1
	for _, test := range []struct {
		name         string
		own, member  time.Duration // How long ago it was confirmed, or never.
		runtime      bool          // What is known here is the runtime's word.
		mutable      bool
		upstreamDown bool
		want         []byte
		asked        bool // Upstream was.
	}{
		{name: "fresh here", own: 0, member: 0, want: own},
		{name: "fresh here, and moves", own: 0, member: 0, mutable: true, want: own},
		{name: "just pulled", own: 0, member: never, runtime: true, want: registry, asked: true},
		{name: "just pulled, upstream down", own: 0, member: never, runtime: true, upstreamDown: true, want: own, asked: true},
		{name: "unknown here", own: never, member: time.Hour, want: member},
		{name: "unknown everywhere", own: never, member: never, want: registry, asked: true},
		{name: "old here, fresh at a member", own: time.Hour, member: 10 * time.Second, want: member},
		{name: "old everywhere", own: time.Hour, member: 2 * time.Hour, want: registry, asked: true},
		{name: "moves, fresh at a member", own: never, member: 0, mutable: true, want: registry, asked: true},
		{name: "moves, upstream down", own: never, member: time.Hour, mutable: true, upstreamDown: true, want: member, asked: true},
		{name: "old everywhere, upstream down", own: time.Hour, member: 2 * time.Hour, upstreamDown: true, want: own, asked: true},
		{name: "unknown everywhere, upstream down", own: never, member: never, upstreamDown: true, asked: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var asked atomic.Int64
			remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if test.upstreamDown {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", digest.FromBytes(registry).String())
				w.Header().Set("Content-Length", fmt.Sprint(len(registry)))
				_, _ = w.Write(registry)
			}))
			defer remote.Close()
			w := newTown(t)
			if test.member != never {
				w.add(t, "member", func(rw http.ResponseWriter, r *http.Request) {
					rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
					rw.Header().Set("Docker-Content-Digest", digest.FromBytes(member).String())
					rw.Header().Set("Content-Length", fmt.Sprint(len(member)))
					rw.Header().Set("Age", fmt.Sprint(int(test.member.Seconds())))
					_, _ = rw.Write(member)
				})
			}
			tag := reference.Reference{Repository: ref.Repository, Tag: "v1"}
			pulled := &records{}
			m, store := newMirror(t, w, remote.URL, test.mutable, pulled)
			if test.own != never {
				desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(own), Size: int64(len(own))}
				if err := store.Put(t.Context(), "", desc, own); err != nil {
					t.Fatal(err)
				}
				known := content.Tag{Target: desc, Confirmed: time.Now().Add(-test.own)}
				if test.runtime {
					pulled.tag = &known
				} else if err := store.SetTag(t.Context(), tag, known); err != nil {
					t.Fatal(err)
				}
			}
			a, err := m.Manifest(t.Context(), tag, upstream.Origin{})
			if (err == nil) != (test.want != nil) {
				t.Fatalf("%v", err)
			}
			if err == nil {
				defer a.Blob.Close()
				if got, rerr := content.ReadAll(t.Context(), a.Blob, 1<<20); rerr != nil || string(got) != string(test.want) {
					t.Errorf("got %s, %v", got, rerr)
				}
				if a.Stale != test.upstreamDown {
					t.Errorf("stale: %v", a.Stale)
				}
			}
			if (asked.Load() > 0) != test.asked {
				t.Errorf("upstream was asked %d times", asked.Load())
			}
		})
	}
}

// records is a runtime that knows one tag, or none.
type records struct{ tag *content.Tag }

func (r *records) Tag(context.Context, reference.Reference) (content.Tag, error) {
	if r.tag == nil {
		return content.Tag{}, content.ErrNotFound
	}
	return *r.tag, nil
}

// rules gives the default policy, or one in which all tags move.
func rules(t *testing.T, mutable bool) *policy.Policy {
	t.Helper()
	cfg := config.Default()
	if mutable {
		rule := config.DefaultTagRule()
		rule.Policy = config.UpstreamFirst
		cfg.Tags.Rules = []config.TagRule{rule}
	}
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newMirror makes a mirror of a real store, the members of a town and a registry at a URL.
func newMirror(t *testing.T, w *town, url string, mutable bool, pulled *records) (*mirror.Mirror, *cache.Cache) {
	t.Helper()
	return ruledMirror(t, w, url, rules(t, mutable), 1<<20, pulled)
}

// ruledMirror is newMirror by any policy, with a store of that many bytes.
func ruledMirror(t *testing.T, w *town, url string, p *policy.Policy, maxBytes int64, pulled ...content.TagStore) (*mirror.Mirror, *cache.Cache) {
	t.Helper()
	store, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	client, err := upstream.New(upstream.Config{
		Registries: func(reference.Repository) upstream.Registry {
			return upstream.Registry{Endpoints: []upstream.Endpoint{{URL: url}}}
		},
		Retries: upstream.Retries{Attempts: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mirror.New(mirror.Config{
		Held: []mirror.Held{{Name: "cache", Store: store}}, Keeper: store, Tags: pulled, Members: w.open(t), Upstream: client,
		Policy: p, FailedFor: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		client.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, store
}

package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/foreign"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// ruled makes a stack with rules.
func ruled(t *testing.T, rules string) *stack {
	t.Helper()
	p := registry.PolicyOf(t, rules)
	return newStack(t, options{impatient: true, mirror: func(c *mirror.Config) {
		c.Policy = p
		c.Foreign = foreign.New(foreign.Config{Policy: p.Foreign(), FirstByte: time.Second, Progress: time.Second})
		t.Cleanup(c.Foreign.Close)
	}})
}

func answering(code int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
}

// TestPolicies says for each policy what becomes of a rollout in each of the ways in which a registry can behave, and
// how many requests the registry gets for it from 20 clients that ask at the same instant.
func TestPolicies(t *testing.T) {
	type outcome struct {
		answer string // old, new, or none.
		stale  bool
		asked  int
	}
	old, renewed, none := "old", "new", "none"
	for policy, want := range map[string]map[string]outcome{
		"peers-first": {
			"unmoved": {old, false, 1}, "moved": {renewed, false, 2}, "moved in the window": {old, false, 0},
			"503": {old, true, 2}, "429": {old, true, 2}, "404": {none, false, 1}, "down": {old, true, 0},
		},
		"upstream-first": {
			"unmoved": {old, false, 1}, "moved": {renewed, false, 2}, "moved in the window": {old, false, 0},
			"503": {old, true, 2}, "429": {old, true, 2}, "404": {none, false, 1}, "down": {old, true, 0},
		},
		"upstream-only": {
			"unmoved": {old, false, 1}, "moved": {renewed, false, 2}, "moved in the window": {old, false, 0},
			"503": {none, false, 2}, "429": {none, false, 2}, "404": {none, false, 1}, "down": {none, false, 0},
		},
		"never": {
			"unmoved": {none, false, 0}, "moved": {none, false, 0}, "moved in the window": {none, false, 0},
			"503": {none, false, 0}, "429": {none, false, 0}, "404": {none, false, 0}, "down": {none, false, 0},
		},
	} {
		for situation, want := range want {
			t.Run(policy+", "+situation, func(t *testing.T) {
				s := ruled(t, fmt.Sprintf("tags: {rules: [{match: '*:*', policy: %s}]}", policy))
				digests := map[string]string{"old": s.remote.putImage("org/app", "v1", []byte("old")).String()}
				s.get(t, tagPath)
				before := s.remote.total()
				s.later(beyond)
				switch situation {
				case "moved in the window":
					s.later(-2 * time.Second)
					fallthrough
				case "moved":
					digests["new"] = s.remote.putImage("org/app", "v1", []byte("new")).String()
				case "down":
					s.remote.Close()
				case "503", "429", "404":
					var code int
					_, _ = fmt.Sscan(situation, &code)
					s.remote.set(answering(code))
				}
				var group sync.WaitGroup
				for i := range 20 {
					group.Go(func() {
						g := s.do(t, []string{http.MethodHead, http.MethodGet}[i%2], tagPath)
						if want.answer == none {
							g.expect(t, 404)
							return
						}
						warning := "-"
						if want.stale {
							warning = `110 - "Response is Stale"`
						}
						g.expect(t, 200, "Docker-Content-Digest", digests[want.answer], "Warning", warning)
					})
				}
				group.Wait()
				if n := s.remote.total() - before; n != want.asked {
					t.Errorf("upstream was asked %d times, want %d", n, want.asked)
				}
			})
		}
	}
}

func TestMaxStale(t *testing.T) {
	s := ruled(t, "tags: {rules: [{match: '*:*', policy: upstream-first, maxStale: 1h}]}")
	s.remote.putImage("org/app", "v1", []byte("a"))
	s.get(t, tagPath).expect(t, 200)
	s.remote.set(answering(503))
	s.later(59 * time.Minute)
	s.get(t, tagPath).expect(t, 200)
	s.later(2 * time.Minute)
	if g := s.get(t, tagPath); g.status != 404 || !strings.Contains(string(g.body), "too old") {
		t.Errorf("%d: %s", g.status, g.body)
	}
}

func TestCacheControl(t *testing.T) {
	for header, counts := range map[string]time.Duration{
		"": time.Minute, "max-age=120": 2 * time.Minute, "max-age=31536000": 5 * time.Minute, "no-store": 30 * time.Second,
		"private, max-age=0": 30 * time.Second, "max-age=none": 30 * time.Second,
	} {
		s := ruled(t, "")
		s.remote.putImage("org/app", "v1", []byte("a"))
		s.remote.set(func(w http.ResponseWriter, _ *http.Request) bool {
			if header != "" {
				w.Header().Set("Cache-Control", header)
			}
			return false
		})
		for round := range 2 { // By GET, and then as the conditional HEAD says.
			s.get(t, tagPath).expect(t, 200)
			if n := s.remote.total(); n != round+1 {
				t.Errorf("%q: asked %d times in round %d", header, n, round)
			}
			s.later(counts - time.Second)
			s.get(t, tagPath).expect(t, 200)
			if n := s.remote.total(); n != round+1 {
				t.Errorf("%q: asked again within %v", header, counts)
			}
			s.later(2 * time.Second)
		}
	}
}

// A registry that knows If-None-Match says nothing more than that nothing changed.
func TestConditional(t *testing.T) {
	s := ruled(t, "")
	d := s.remote.putImage("org/app", "v1", []byte("a"))
	s.get(t, tagPath).expect(t, 200)
	var conditional atomic.Int64
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") != `"`+d.String()+`"` {
			return false
		}
		conditional.Add(1)
		w.WriteHeader(http.StatusNotModified)
		return true
	})
	s.later(beyond)
	s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", d.String(), "Age", "0")
	if conditional.Load() != 1 {
		t.Errorf("%d conditional requests", conditional.Load())
	}
}

func TestRefresh(t *testing.T) {
	s := ruled(t, "")
	s.remote.putImage("org/app", "v1", []byte("one"))
	s.get(t, tagPath).expect(t, 200)
	two := s.remote.putImage("org/app", "v1", []byte("two"))
	ref := reference.Reference{Repository: reference.Repository{Registry: upstreamHost, Path: "org/app"}, Tag: "v1"}
	if err := s.mirror.Refresh(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", two.String())
	ref.Tag, ref.Digest = "", two
	if err := s.mirror.Refresh(t.Context(), ref); err == nil {
		t.Error("content by digest was refreshed")
	}
}

func TestTagAges(t *testing.T) {
	metrics := prometheus.NewRegistry()
	s := newStack(t, options{mirror: func(c *mirror.Config) { c.Registerer = metrics }})
	s.remote.putImage("org/app", "v1", []byte("a"))
	s.get(t, tagPath).expect(t, 200)
	s.later(30 * time.Second)
	s.get(t, tagPath).expect(t, 200)
	s.later(beyond)
	s.remote.set(answering(503))
	s.get(t, tagPath).expect(t, 200)
	want := `
# HELP kioo_tag_age_seconds How long ago a registry confirmed what tags were answered to mean.
# TYPE kioo_tag_age_seconds histogram
kioo_tag_age_seconds_bucket{le="1"} 1
kioo_tag_age_seconds_bucket{le="10"} 1
kioo_tag_age_seconds_bucket{le="60"} 2
kioo_tag_age_seconds_bucket{le="600"} 3
kioo_tag_age_seconds_bucket{le="3600"} 3
kioo_tag_age_seconds_bucket{le="21600"} 3
kioo_tag_age_seconds_bucket{le="86400"} 3
kioo_tag_age_seconds_bucket{le="604800"} 3
kioo_tag_age_seconds_bucket{le="+Inf"} 3
kioo_tag_age_seconds_sum 121
kioo_tag_age_seconds_count 3
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "kioo_tag_age_seconds"); err != nil {
		t.Error(err)
	}
}

func TestRoutes(t *testing.T) {
	s := ruled(t, "registries: [{match: '*/secret/*', action: deny}, {match: '*/air/*', action: local}]")
	s.remote.putImage("secret/app", "v1", []byte("a"))
	layer := []byte("a layer")
	d := s.remote.putImage("air/app", "v1", layer)
	blob := digest.FromBytes(layer).String()
	for _, path := range []string{"/v2/secret/app/manifests/v1", "/v2/secret/app/tags/list", "/v2/secret/app/blobs/" + blob,
		"/v2/air/app/manifests/v1", "/v2/air/app/manifests/" + d.String(), "/v2/air/app/blobs/" + blob, "/v2/air/app/tags/list", "/v2/air/app/referrers/" + d.String()} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			s.do(t, method, path).expect(t, 404)
		}
	}
	if n := s.remote.total(); n != 0 {
		t.Fatalf("upstream was asked %d times", n)
	}
	// What is held is answered for, whatever its age.
	ref := reference.Reference{Repository: reference.Repository{Registry: upstreamHost, Path: "air/app"}, Tag: "v1"}
	body := s.remote.manifests["air/app:v1"]
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(body))}
	s.book.Saw(ref.Repository, d)
	err := errors.Join(s.cache.Put(t.Context(), "", desc, body), s.cache.SetTag(t.Context(), ref, content.Tag{Target: desc, Confirmed: s.now().Add(-time.Hour)}))
	if err != nil {
		t.Fatal(err)
	}
	s.later(6 * time.Second)
	s.get(t, "/v2/air/app/manifests/v1").expect(t, 200, "Age", "3606", "Warning", "-")
	if n := s.remote.total(); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

// putForeign makes an image with one foreign layer.
func putForeign(t *testing.T, r *remote, mediaType string, layer []byte, urls ...string) (dgst digest.Digest, manifest []byte) {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: r.putBlob("org/win", []byte("{}")), Size: 2}
	m.Layers = []ocispec.Descriptor{{MediaType: mediaType, Digest: digest.FromBytes(layer), Size: int64(len(layer)), URLs: urls}}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r.putManifest("org/win", "v1", ocispec.MediaTypeImageManifest, body)
	return m.Layers[0].Digest, body
}

const restricted = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

func TestForeignLayers(t *testing.T) {
	layer := bytes.Repeat([]byte("windows "), 1000)
	var asked atomic.Int64
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(layer))
	}))
	defer files.Close()
	for name, tt := range map[string]struct {
		rules  string
		status int
		says   string // In the error.
		asked  int64
	}{
		"fetch":       {"allowHTTP: true, hosts: ['127.0.0.1:*'], networks: [127.0.0.0/8]", 200, "", 1},
		"shared":      {"allowHTTP: true, hosts: ['127.0.0.1:*'], networks: [127.0.0.0/8], share: true", 200, "", 1},
		"redirect":    {"action: redirect, allowHTTP: true, hosts: ['127.0.0.1:*'], networks: [127.0.0.0/8]", 307, "foreign", 0},
		"refuse":      {"action: refuse", 404, "refuse", 0},
		"no host":     {"allowHTTP: true", 404, "foreignLayers.hosts", 0},
		"no scheme":   {"hosts: ['*']", 404, "scheme", 0},
		"no network":  {"allowHTTP: true, hosts: ['*:*']", 404, "not to be called", 0},
		"no redirect": {"action: redirect, allowHTTP: true, hosts: ['*:*']", 404, "not to be called", 0},
	} {
		t.Run(name, func(t *testing.T) {
			http.DefaultClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			defer func() { http.DefaultClient.CheckRedirect = nil }()
			asked.Store(0)
			s := ruled(t, "foreignLayers: {"+tt.rules+"}")
			d, manifest := putForeign(t, s.remote, restricted, layer, files.URL+"/layer")
			if g := s.get(t, "/v2/org/win/manifests/v1").expect(t, 200); !bytes.Equal(g.body, manifest) {
				t.Error("the manifest was rewritten")
			}
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				g := s.do(t, method, "/v2/org/win/blobs/"+d.String()).expect(t, tt.status)
				if tt.status == 307 && g.header.Get("Location") != files.URL+"/layer" {
					t.Errorf("Location is %q", g.header.Get("Location"))
				}
				if method == http.MethodHead {
					continue
				}
				if tt.status == 200 && !bytes.Equal(g.body, layer) {
					t.Errorf("%d bytes", len(g.body))
				}
				if !strings.Contains(string(g.body), tt.says) {
					t.Errorf("the error does not say why: %s", g.body)
				}
			}
			if asked.Load() != tt.asked {
				t.Errorf("the url was asked %d times", asked.Load())
			}
			if tt.status == 200 { // It is held now, and given to the node again, but to nobody else.
				s.get(t, "/v2/org/win/blobs/"+d.String()).expect(t, 200)
				ref := reference.Reference{Repository: reference.Repository{Registry: upstreamHost, Path: "org/win"}, Digest: d}
				a, err := s.mirror.Local().Blob(t.Context(), ref, false, upstream.Origin{})
				if shared := err == nil; shared != strings.Contains(tt.rules, "share: true") || !shared && !errors.Is(err, mirror.ErrDenied) {
					t.Errorf("other members: %v", err)
				} else if shared {
					a.Blob.Close()
				}
				if asked.Load() != tt.asked {
					t.Errorf("the url was asked again, %d times", asked.Load())
				}
			}
		})
	}
}

// Whoever calls somebody's layer foreign neither gets it from elsewhere for others nor takes it from them.
func TestForeignByAnother(t *testing.T) {
	layer := []byte("an ordinary layer")
	s := ruled(t, "foreignLayers: {allowHTTP: true, hosts: ['*:*'], networks: [127.0.0.0/8]}")
	s.remote.putImage("org/app", "v1", layer)
	var asked atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(bytes.Repeat([]byte("x"), len(layer)))
	}))
	defer evil.Close()
	d, _ := putForeign(t, s.remote, restricted, layer, evil.URL)
	s.get(t, "/v2/org/win/manifests/v1").expect(t, 200)
	s.get(t, tagPath).expect(t, 200)
	if g := s.get(t, "/v2/org/app/blobs/"+d.String()).expect(t, 200); !bytes.Equal(g.body, layer) || asked.Load() != 0 {
		t.Errorf("got %q, and the url was asked %d times", g.body, asked.Load())
	}
	ref := reference.Reference{Repository: reference.Repository{Registry: upstreamHost, Path: "org/app"}, Digest: d}
	s.heldSoon(t, d)
	a, err := s.mirror.Local().Blob(t.Context(), ref, false, upstream.Origin{})
	if err != nil {
		t.Fatalf("other members don't get it: %v", err)
	}
	a.Blob.Close()
}

// Wrong bytes of a url are noticed, and the registry, which may have the layer too, is asked.
func TestForeignWrongBytes(t *testing.T) {
	layer := []byte("the right bytes")
	s := ruled(t, "foreignLayers: {allowHTTP: true, hosts: ['*:*'], networks: [127.0.0.0/8]}")
	wrong := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), len(layer)))
	}))
	defer wrong.Close()
	d, _ := putForeign(t, s.remote, restricted, layer, wrong.URL)
	s.remote.putBlob("org/win", layer)
	s.get(t, "/v2/org/win/manifests/v1").expect(t, 200)
	if g := s.get(t, "/v2/org/win/blobs/"+d.String()).expect(t, 200); !bytes.Equal(g.body, layer) {
		t.Errorf("got %q", g.body)
	}
}

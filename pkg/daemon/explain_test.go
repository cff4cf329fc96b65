package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// listen starts a server that notes what it is asked.
func listen(t *testing.T, note *[]string, mu *sync.Mutex, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		*note = append(*note, s.URL+r.URL.RequestURI())
		mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func rulesOf(t *testing.T, rules string) *config.Config {
	t.Helper()
	parsed, err := config.Parse("kioo.yaml", []byte("apiVersion: kioo.dev/v1alpha1\nkind: MirrorConfiguration\n"+rules))
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t)
	cfg.Registries, cfg.Tags, cfg.ForeignLayers, cfg.Prefetch, cfg.Events = parsed.Registries, parsed.Tags, parsed.ForeignLayers, parsed.Prefetch, parsed.Events
	cfg.Upstream.Attempts = 1
	return cfg
}

// TestExplainAgrees asks a real mirror for what was explained, and compares whom it asks with the plan: all of the
// plan's servers if none has an answer, and those up to the first that has one.
func TestExplainAgrees(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	var mu sync.Mutex
	var asked []string
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{},"layers":[]}`, ocispec.MediaTypeImageManifest)
	empty := listen(t, &asked, &mu, http.NotFound)
	full := listen(t, &asked, &mu, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		_, _ = io.WriteString(w, manifest)
	})
	cfg := rulesOf(t, strings.NewReplacer("EMPTY", empty.URL, "FULL", full.URL).Replace(`
registries:
  - {match: denied.example.com, action: deny}
  - {match: "*/denied/*", action: deny}
  - {match: air.example.com, action: local}
  - match: two.example.com/part/*
    endpoints: [{url: "EMPTY/prefix", repository: "hub/{*}", sendNamespace: true}, {url: "EMPTY", repository: "{registry}/{repository}"}]
  - match: two.example.com
    endpoints: [{url: "EMPTY"}, {url: "FULL"}, {url: "EMPTY/last"}]
  - match: "*.example.com"
    peers: false
    endpoints: [{url: "FULL", repository: "{registry}/{repository}"}]
  - {match: "*", action: deny}
tags:
  rules:
    - {match: "*:never", policy: never}
    - {match: "*:only", policy: upstream-only}
    - {match: "*:old", maxAge: 1h}
`))
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d, stop := start(t, cfg)
	repos := []string{
		"denied.example.com/a", "quay.io/denied/a", "two.example.com/denied/a", "air.example.com/a", "two.example.com/part/a/b", "two.example.com/a",
		"other.example.com/a/b", "quay.io/a", "docker.io/library/nginx", "169.254.169.254/latest",
	}
	objects := []string{":v1", ":latest", ":never", ":only", ":old", "@" + digest.FromString(manifest).String(), "@" + digest.FromString("x").String()}
	for _, name := range repos {
		for _, object := range objects {
			ref, err := reference.Parse(name + object)
			if err != nil {
				t.Fatal(err)
			}
			plan := p.Explain(ref, policy.Surroundings{})
			var want []string
			answered := false
			for _, s := range plan.Steps {
				if s.Who != policy.Upstream || answered {
					continue
				}
				want = append(want, s.URL)
				right := ref.Digest == "" || ref.Digest == digest.FromString(manifest)
				answered = strings.HasPrefix(s.URL, full.URL) && right
			}
			held := ref.Digest != "" && object == objects[5] && !p.Denied(ref.Repository)
			mu.Lock()
			asked = nil
			mu.Unlock()
			code, body := get(t, "http://"+d.Addrs()[0].String()+"/v2/"+ref.Path+"/manifests/"+ref.Object()+"?ns="+ref.Registry)
			mu.Lock()
			got := slices.Clone(asked)
			mu.Unlock()
			if held && len(got) == 0 && code == 200 {
				continue // The plan's first step: the node holds it by now, in whatever name.
			}
			if diff := cmp.Diff(want, got); diff != "" || (code == 200) != answered {
				t.Errorf("%s: %d %.200s (-explained +asked):\n%s", ref, code, body, diff)
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestBandwidthRule has a rule with a cap on bytes: it holds for the repositories that the rule is for.
func TestBandwidthRule(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	blob := strings.Repeat("slow", 32<<10)
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(blob+r.URL.Path[:6+len("slow")]))
	}))
	defer remote.Close()
	d, stop := start(t, rulesOf(t, strings.ReplaceAll(`
registries:
  - {match: "*/slow/*", maxBytesPerSecond: 128Ki, endpoints: [{url: "REMOTE"}]}
  - {match: "*", endpoints: [{url: "REMOTE"}]}
`, "REMOTE", remote.URL)))
	took := map[string]time.Duration{}
	for _, path := range []string{"/v2/slow/app", "/v2/fast/app"} {
		body := blob + path[:6+len("slow")]
		began := time.Now()
		code, got := get(t, "http://"+d.Addrs()[0].String()+path+"/blobs/"+digest.FromString(body).String()+"?ns=registry.example.com")
		if took[path] = time.Since(began); code != 200 || got != body {
			t.Errorf("%s: %d, %d bytes", path, code, len(got))
		}
	}
	if took["/v2/slow/app"] < 500*time.Millisecond || took["/v2/fast/app"] > took["/v2/slow/app"] {
		t.Errorf("it took %v", took)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

package daemon_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/events"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/prefetch"
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

// moving is an upstream whose tag can be moved.
type moving struct {
	mu       sync.Mutex
	manifest string
	layer    string
	blobs    int
}

func (m *moving) set(layer string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layer = layer
	m.manifest = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"c","digest":%q,"size":2},"layers":[{"mediaType":"l","digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), digest.FromString(layer), len(layer))
}

func (m *moving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	body := ""
	switch {
	case strings.HasSuffix(r.URL.Path, "/manifests/v1"), strings.HasSuffix(r.URL.Path, "/"+digest.FromString(m.manifest).String()):
		body = m.manifest
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromString(body).String())
	case strings.HasSuffix(r.URL.Path, "/"+digest.FromString(m.layer).String()):
		m.blobs++
		body = m.layer
	case strings.HasSuffix(r.URL.Path, "/"+digest.FromString("{}").String()):
		body = "{}"
	default:
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
}

// members starts a fleet whose members know each other.
func members(t *testing.T, upstream string, n int, zones ...string) []*daemon.Daemon {
	t.Helper()
	key, first := writeKey(t), freeAddress(t)
	var all []*daemon.Daemon
	for i := range n {
		address := first
		if i > 0 {
			address = freeAddress(t)
		}
		cfg := memberConfig(t, upstream, key, address, first)
		if len(zones) > 0 {
			cfg.Peers.Zone = zones[i]
		}
		d, stop := start(t, cfg)
		t.Cleanup(func() {
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
		all = append(all, d)
	}
	return all
}

func post(t *testing.T, d *daemon.Daemon, path string, query url.Values, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+d.MetricsAddr().String()+path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

const image = "registry.example.com/org/app:v1"

func TestRefreshEverywhere(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	m := &moving{}
	m.set("one")
	upstream := httptest.NewServer(m)
	defer upstream.Close()
	all := members(t, upstream.URL, 3)
	pull := func(d *daemon.Daemon) string {
		_, body := get(t, "http://"+d.Addrs()[0].String()+"/v2/org/app/manifests/v1?ns=registry.example.com")
		return body
	}
	for _, d := range all {
		if pull(d) != m.manifest {
			t.Fatal("the first pull went wrong")
		}
	}
	old := m.manifest
	m.set("two")
	if pull(all[1]) != old {
		t.Error("a fresh tag was looked up again")
	}
	for deadline := time.Now().Add(15 * time.Second); ; {
		resp := post(t, all[0], daemon.RefreshPath, url.Values{"image": {image}})
		var answer daemon.Refreshed
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Failed) > 0 {
			t.Fatalf("%d: %+v, %v", resp.StatusCode, answer, err)
		}
		if answer.Members == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d members were told", answer.Members)
		}
	}
	for i, d := range all {
		if pull(d) != m.manifest {
			t.Errorf("member %d still has what the tag meant", i)
		}
	}
}

func TestOnlyThisMachineControls(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d, stop := start(t, testConfig(t))
	for _, tt := range []struct {
		path   string
		query  url.Values
		header []string
		status int
	}{
		{daemon.RefreshPath, url.Values{"image": {image}}, nil, 200},
		{daemon.RefreshPath, url.Values{"image": {image}}, []string{"Origin", "https://evil.example.com"}, 403},
		{daemon.RefreshPath, url.Values{"image": {"registry.example.com/a@" + digest.FromString("x").String()}}, nil, 400},
		{daemon.RefreshPath, url.Values{"image": {"A B"}}, nil, 400},
		{daemon.RefreshPath, nil, nil, 400},
		{daemon.PrefetchPath, nil, nil, 400},
		{daemon.PrefetchPath, url.Values{"image": {"A B"}}, nil, 400},
		{daemon.PrefetchPath, url.Values{"image": {image}, "copies": {"-1"}}, nil, 400},
		{daemon.PrefetchPath, url.Values{"image": {image}, "copies": {"x"}}, nil, 400},
		{"/kioo/v1/other", nil, nil, 404},
	} {
		if got := post(t, d, tt.path, tt.query, tt.header...).StatusCode; got != tt.status {
			t.Errorf("%s %v %v: %d, want %d", tt.path, tt.query, tt.header, got, tt.status)
		}
	}
	if code, _ := get(t, "http://"+d.MetricsAddr().String()+daemon.RefreshPath+"?image="+image); code != 405 {
		t.Errorf("GET: %d", code)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// prefetched reads progress, and gives the last words by node.
func prefetched(t *testing.T, body io.Reader) map[string]prefetch.Progress {
	t.Helper()
	last := make(map[string]prefetch.Progress)
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		var p prefetch.Progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		last[p.Node] = p
	}
	for node, p := range last {
		if !p.Done {
			t.Errorf("%s has no last word: %+v", node, p)
		}
	}
	return last
}

func TestPrefetch(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	m := &moving{}
	layer := strings.Repeat("a layer ", 1<<17)
	m.set(layer)
	upstream := httptest.NewServer(m)
	defer upstream.Close()
	all := members(t, upstream.URL, 3, "a", "a", "b")
	ask := func(query url.Values, want int) map[string]prefetch.Progress {
		t.Helper()
		query.Set("image", image)
		for deadline := time.Now().Add(15 * time.Second); ; { // Until the members know each other.
			got := prefetched(t, post(t, all[0], daemon.PrefetchPath, query).Body)
			if len(got) == want || time.Now().After(deadline) {
				if len(got) != want {
					t.Fatalf("%v: %d nodes, want %d: %+v", query, len(got), want, got)
				}
				return got
			}
		}
	}
	for node, p := range ask(url.Values{}, 3) {
		if p.Error != "" || p.Digest != digest.FromString(m.manifest).String() || p.Bytes != p.Total || p.Total != int64(len(layer)+2) {
			t.Errorf("%s: %+v", node, p)
		}
	}
	upstream.Close()
	for i, d := range all { // Each of them has it now.
		if code, body := get(t, "http://"+d.Addrs()[0].String()+"/v2/org/app/blobs/"+digest.FromString(layer).String()+"?ns=registry.example.com"); code != 200 || body != layer {
			t.Errorf("member %d: %d, %d bytes", i, code, len(body))
		}
	}
	ask(url.Values{"zone": {"a"}}, 2)
	ask(url.Values{"copies": {"1"}}, 1)
	if got := ask(url.Values{"here": {"1"}}, 1); got[daemon.ThisNode].Fetched != 0 || got[daemon.ThisNode].Error != "" {
		t.Errorf("%+v", got)
	}
	for _, p := range ask(url.Values{"zone": {"nowhere"}}, 1) {
		if p.Error == "" {
			t.Error("a zone without nodes is no mistake")
		}
	}
}

func TestPrefetchFails(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	cfg := rulesOf(t, "registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\n")
	d, stop := start(t, cfg)
	got := prefetched(t, post(t, d, daemon.PrefetchPath, url.Values{"image": {image}}).Body)
	if p := got[daemon.ThisNode]; !strings.Contains(p.Error, "404") {
		t.Errorf("%+v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestWarm has a list of images in the configuration: they are there before somebody asks.
func TestWarm(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	m := &moving{}
	m.set("warm layer")
	upstream := httptest.NewServer(m)
	defer upstream.Close()
	d, stop := start(t, rulesOf(t, "registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\nprefetch: {images: [{image: '"+image+"'}]}\n"))
	for deadline := time.Now().Add(15 * time.Second); ; {
		if _, metrics := get(t, "http://"+d.MetricsAddr().String()+"/metrics"); strings.Contains(metrics, "\nkioo_cache_blobs 3\n") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was brought in")
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	m := &moving{}
	m.set("layer")
	upstream := httptest.NewServer(m)
	defer upstream.Close()
	var mu sync.Mutex
	got := map[string]events.Event{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct{ Events []events.Event }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range body.Events {
			got[e.Action+" "+e.Target.Digest+" "+e.Target.Tag] = e
		}
	}))
	defer hook.Close()
	cfg := rulesOf(t, "registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\nevents: {endpoints: [{url: '"+hook.URL+"'}]}\n")
	manifest, layer := digest.FromString(m.manifest).String(), digest.FromString("layer").String()
	d, stop := start(t, cfg)
	base := "http://" + d.Addrs()[0].String() + "/v2/org/app/"
	for _, path := range []string{"manifests/v1", "blobs/" + layer, "blobs/" + digest.FromString("missing").String()} {
		get(t, base+path+"?ns=registry.example.com")
	}
	if err := stop(); err != nil { // Whatever was not sent yet is on disk.
		t.Fatal(err)
	}
	_, stop = start(t, cfg)
	wanted := []string{"pull " + manifest + " v1", "pull " + layer + " ", "push " + manifest + " ", "push " + layer + " "}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(wanted), func(key string) bool { _, ok := got[key]; return ok })
		mu.Unlock()
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("missing: %v", missing)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	e := got[wanted[0]]
	if e.Target.Repository != "registry.example.com/org/app" || e.Target.Size != int64(len(m.manifest)) || e.Target.MediaType != ocispec.MediaTypeImageManifest ||
		e.Request.Method != "GET" || e.Request.ID == "" || !strings.Contains(e.Target.URL, "/v2/org/app/manifests/v1") || e.Source.InstanceID == "" {
		t.Errorf("%+v", e)
	}
	if len(got) != len(wanted) {
		t.Errorf("%d events: %v", len(got), got)
	}
}

package daemon_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/prefetch"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

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

// orders gives a client of a daemon's control socket.
func orders(d *daemon.Daemon) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.ControlSocket())
		},
	}}
}

func post(t *testing.T, d *daemon.Daemon, path string, query url.Values) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost"+path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := orders(d).Do(req)
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
	all := fleetOf(t, 3, upstream.URL, nil)
	pull := func(d member) string {
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
	resp := post(t, all[0].Daemon, daemon.RefreshPath, url.Values{"image": {image}})
	var answer daemon.Refreshed
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Failed) > 0 || answer.Members != 2 {
		t.Fatalf("%d: %+v, %v", resp.StatusCode, answer, err)
	}
	for i, d := range all {
		if pull(d) != m.manifest {
			t.Errorf("member %d still has what the tag meant", i)
		}
	}
}

func TestControlRefuses(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d, stop := start(t, testConfig(t))
	for _, tt := range []struct {
		path   string
		query  url.Values
		status int
	}{
		{daemon.RefreshPath, url.Values{"image": {image}}, 200},
		{daemon.RefreshPath, url.Values{"image": {"registry.example.com/a@" + digest.FromString("x").String()}}, 400},
		{daemon.RefreshPath, url.Values{"image": {"A B"}}, 400},
		{daemon.RefreshPath, nil, 400},
		{daemon.PrefetchPath, nil, 400},
		{daemon.PrefetchPath, url.Values{"image": {"A B"}}, 400},
		{daemon.PrefetchPath, url.Values{"image": {image}, "copies": {"-1"}}, 400},
		{daemon.PrefetchPath, url.Values{"image": {image}, "copies": {"x"}}, 400},
		{"/kioo/v1/other", nil, 404},
	} {
		if got := post(t, d, tt.path, tt.query).StatusCode; got != tt.status {
			t.Errorf("%s %v: %d, want %d", tt.path, tt.query, got, tt.status)
		}
	}
	resp, err := orders(d).Get("http://localhost" + daemon.RefreshPath + "?image=" + image)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 405 {
		t.Errorf("GET: %d", resp.StatusCode)
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
	all := fleetOf(t, 3, upstream.URL, func(i int, cfg *config.Config) { cfg.Peers.Zone = []string{"a", "a", "b"}[i] })
	ask := func(query url.Values, want int) map[string]prefetch.Progress {
		t.Helper()
		query.Set("image", image)
		got := prefetched(t, post(t, all[0].Daemon, daemon.PrefetchPath, query).Body)
		if len(got) != want {
			t.Fatalf("%v: %d nodes, want %d: %+v", query, len(got), want, got)
		}
		return got
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

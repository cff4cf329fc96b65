package daemon_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// upstreamOf serves one image "org/app:v1" of one layer, until it is closed, and counts what it is asked.
func upstreamOf(t *testing.T, layer string) (server *httptest.Server, manifest string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	manifest = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"c","digest":%q,"size":2},"layers":[{"mediaType":"l","digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), digest.FromString(layer), len(layer))
	content := map[string]string{
		"/v2/org/app/manifests/v1":                                      manifest,
		"/v2/org/app/manifests/" + digest.FromString(manifest).String(): manifest,
		"/v2/org/app/blobs/" + digest.FromString("{}").String():         "{}",
		"/v2/org/app/blobs/" + digest.FromString(layer).String():        layer,
		"/v2/org/app/manifests/latest":                                  manifest,
	}
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, ok := content[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", digest.FromString(body).String())
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	}))
	t.Cleanup(server.Close)
	return server, manifest, asked
}

// freeAddress gives an address on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	// Of another address than the one where everybody else takes any port that is free.
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func memberConfig(t *testing.T, upstream, keyFile, discovery, bootstrap string) *config.Config {
	t.Helper()
	cfg := testConfig(t)
	entry := config.DefaultRegistry()
	entry.Endpoints = []config.Endpoint{config.EndpointAt(upstream)}
	cfg.Registries = []config.Registry{entry}
	cfg.Upstream.Attempts = 1
	cfg.Peers.KeyFiles = []string{keyFile}
	cfg.Peers.Listen = []string{"127.0.0.1:0"}
	cfg.Discovery.Listen = []string{discovery}
	cfg.Discovery.Bootstrap.Addresses = []string{bootstrap}
	cfg.Shutdown.Timeout = 2 * time.Second
	return cfg
}

func writeKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(peer.NewKey().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// member is one daemon of a fleet.
type member struct {
	*daemon.Daemon
	stop func() error // May be called again.
}

// fleetOf starts members that all know each other, until the test ends. change, if not nil, may change the
// configuration of each.
func fleetOf(t *testing.T, n int, upstream string, change func(i int, cfg *config.Config)) []member {
	t.Helper()
	key, first := writeKey(t), freeAddress(t)
	var members []member
	for i := range n {
		address := first
		if i > 0 {
			address = "127.0.0.1:0" // One that is free now may be a connection's by the time that it starts.
		}
		cfg := memberConfig(t, upstream, key, address, first)
		if change != nil {
			change(i, cfg)
		}
		d, stop := start(t, cfg)
		stop = sync.OnceValue(stop)
		t.Cleanup(func() {
			if err := stop(); err != nil {
				t.Errorf("member %d: %v", i, err)
			}
		})
		members = append(members, member{d, stop})
	}
	for i, m := range members {
		for deadline := time.Now().Add(20 * time.Second); m.Members() < n-1; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("member %d knows %d others", i, m.Members())
			}
		}
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return members
}

// TestMembersServeEachOther has one member pull from upstream, and the others from it when upstream is gone.
func TestMembersServeEachOther(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	layer := strings.Repeat("layer of some size ", 100_000)
	upstream, manifest, asked := upstreamOf(t, layer)
	var urls []string
	for _, m := range fleetOf(t, 3, upstream.URL, nil) {
		urls = append(urls, "http://"+m.Addrs()[0].String()+"/v2/org/app/")
	}
	paths := map[string]string{
		"manifests/v1": manifest, "manifests/" + digest.FromString(manifest).String(): manifest,
		"blobs/" + digest.FromString("{}").String(): "{}", "blobs/" + digest.FromString(layer).String(): layer,
		"manifests/latest": manifest,
	}
	for path, want := range paths {
		if code, body := get(t, urls[0]+path+"?ns=registry.example.com"); code != 200 || body != want {
			t.Fatalf("first member: %s: %d, %.100s", path, code, body)
		}
	}
	before := asked.Load()
	upstream.Close()
	for member, url := range urls[1:] {
		for path, want := range paths {
			deadline := time.Now().Add(15 * time.Second)
			for {
				code, body := get(t, url+path+"?ns=registry.example.com")
				if code == 200 && body == want {
					break
				}
				if time.Now().After(deadline) { // Failed look-ups are remembered for some seconds.
					t.Fatalf("member %d: %s: %d, %.300s", member+2, path, code, body)
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		// A name that nobody knows is still unknown.
		if code, _ := get(t, url+"manifests/v1?ns=other.example.com"); code != 404 {
			t.Errorf("another registry's tag: %d", code)
		}
	}
	if n := asked.Load(); n != before {
		t.Errorf("upstream was asked %d times after it was gone", n-before)
	}
}

// TestMembersPullTogether has all members pull a new image at the same instant: upstream is asked for each part of it
// about once.
func TestMembersPullTogether(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	const members = 4
	layer := strings.Repeat("layer of some size ", 100_000)
	upstream, manifest, asked := upstreamOf(t, layer)
	daemons := fleetOf(t, members, upstream.URL, nil)
	var pulls sync.WaitGroup
	for i, d := range daemons {
		url := "http://" + d.Addrs()[0].String() + "/v2/org/app/"
		pulls.Go(func() {
			for _, part := range []struct{ path, want string }{
				{"manifests/v1", manifest}, {"manifests/" + digest.FromString(manifest).String(), manifest},
				{"blobs/" + digest.FromString("{}").String(), "{}"}, {"blobs/" + digest.FromString(layer).String(), layer},
			} {
				if code, body := get(t, url+part.path+"?ns=registry.example.com"); code != 200 || body != part.want {
					t.Errorf("member %d: %s: %d, %.100s", i, part.path, code, body)
				}
			}
		})
	}
	pulls.Wait()
	t.Logf("%d requests upstream", asked.Load())
	if n := asked.Load(); n > 3*members/2+3 { // Three, and room for a machine that is busy; twelve without a swarm.
		t.Errorf("upstream was asked %d times for three things", n)
	}
	announced := 0
	for _, d := range daemons {
		_, body := get(t, "http://"+d.MetricsAddr().String()+"/metrics")
		if strings.Contains(body, `kioo_coordinator_announces_total{result="answered"}`) {
			announced++
		}
	}
	if announced == 0 {
		t.Error("nobody coordinated anything")
	}
}

// TestStrangerGetsNothing has a mirror with another key: it finds nobody.
func TestStrangerGetsNothing(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	upstream, _, _ := upstreamOf(t, "layer")
	first := freeAddress(t)
	d, stop := start(t, memberConfig(t, upstream.URL, writeKey(t), first, first))
	path := "blobs/" + digest.FromString("layer").String() + "?ns=registry.example.com"
	if code, _ := get(t, "http://"+d.Addrs()[0].String()+"/v2/org/app/"+path); code != 200 {
		t.Fatalf("member: %d", code)
	}
	upstream.Close()
	stranger, stopStranger := start(t, memberConfig(t, upstream.URL, writeKey(t), "127.0.0.1:0", first))
	if code, _ := get(t, "http://"+stranger.Addrs()[0].String()+"/v2/org/app/"+path); code != 404 {
		t.Errorf("stranger: %d", code)
	}
	for _, stop := range []func() error{stop, stopStranger} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

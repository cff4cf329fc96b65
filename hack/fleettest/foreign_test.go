package fleettest

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

// elsewhere is where foreign layers are: a server beside the upstream registry. Containerd tries their urls before it
// asks a mirror; it fails the first time, so that the mirror is asked.
type elsewhere struct {
	host string

	mu     sync.Mutex
	files  map[string][]byte
	failed map[string]bool
	sent   map[string]int // How often a file was sent, by who asked and its name.
}

const elsewherePort = 5003

func newElsewhere(t *testing.T, f *fleet.Fleet) *elsewhere {
	t.Helper()
	e := &elsewhere{
		host:  netip.AddrPortFrom(f.Upstream.Addr, elsewherePort).String(),
		files: map[string][]byte{}, failed: map[string]bool{}, sent: map[string]int{},
	}
	l, err := f.Upstream.Listen(e.host)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: e}}
	server.Start()
	t.Cleanup(server.Close)
	return e
}

// ServeHTTP implements http.Handler.
func (e *elsewhere) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	from, _, _ := strings.Cut(r.RemoteAddr, ":")
	e.mu.Lock()
	body, ok := e.files[r.URL.Path]
	first := agent == "containerd" && !e.failed[from+r.URL.Path]
	if first {
		e.failed[from+r.URL.Path] = true
	}
	if ok && !first {
		e.sent[agent+" "+r.URL.Path]++
	}
	e.mu.Unlock()
	if !ok || first {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func (e *elsewhere) count(agent, path string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sent[agent+" "+path]
}

// image pushes one whose last layer is elsewhere.
func (e *elsewhere) image(t *testing.T, f *fleet.Fleet, name string) v1.Hash {
	t.Helper()
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	urls := []string{"http://" + e.host + "/" + name}
	img, layer, body, err := registrytest.NewForeignImage(seed(t.Name()+name), platform, 2<<20, urls, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Upstream.Push(t.Context(), "win/"+name+":v1", img); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	e.files["/"+name] = body
	e.mu.Unlock()
	return layer
}

// TestForeignLayers has real containerds pull images with a layer that no registry has: a mirror that fetches it from
// its url, one that sends containerd there, and one that does neither.
func TestForeignLayers(t *testing.T) {
	t.Run("shared", sharedForeign)
	for _, version := range containerdtest.Versions() {
		t.Run(string(version), func(t *testing.T) {
			actions := []string{"fetch", "redirect", "refuse", "fetch"}
			f := newFleet(t, fleet.Config{
				Nodes: len(actions), Containerd: version,
				Configure: func(n *fleet.Node, cfg *config.Config) {
					number := int(n.Addr.As4()[3])
					cfg.ForeignLayers.Action = actions[number-1]
					cfg.ForeignLayers.Hosts, cfg.ForeignLayers.AllowHTTP = []string{"*:*"}, true
					cfg.ForeignLayers.Networks = []string{"10.77.255.1/32"}
				},
			})
			e := newElsewhere(t, f)
			t.Run("fetched", func(t *testing.T) { e.fetched(t, f, f.Nodes[0], f.Nodes[3]) })
			t.Run("redirected", func(t *testing.T) { e.redirected(t, f, f.Nodes[1]) })
			t.Run("refused", func(t *testing.T) { e.refused(t, f, f.Nodes[2]) })
		})
	}
}

// fetched: the mirror gets the layer and keeps it, and gives it to its own node alone: each node fetches its own.
func (e *elsewhere) fetched(t *testing.T, f *fleet.Fleet, nodes ...*fleet.Node) {
	layer := e.image(t, f, "fetched")
	for i, n := range nodes {
		pull(t, n, f.Upstream.Image("win/fetched:v1"))
		if got := e.count("kioo", "/fetched"); got != i+1 {
			t.Errorf("%s: mirrors got the layer %d times, want %d", n.Name, got, i+1)
		}
	}
	if got := e.count("containerd", "/fetched"); got != 0 {
		t.Errorf("containerd got the layer itself, %d times", got)
	}
	for _, r := range f.Upstream.BlobRequests(layer.String()) {
		if r.Status == http.StatusOK {
			t.Errorf("the registry gave the layer, which it does not have: %+v", r)
		}
	}
	// Kept, it is given again.
	if code, _ := askMirror(t, nodes[0], http.MethodGet, f.Upstream.Host(), "win/fetched/blobs/"+layer.String(), ""); code != http.StatusOK {
		t.Errorf("the layer is answered with %d", code)
	}
	if got := e.count("kioo", "/fetched"); got != len(nodes) {
		t.Errorf("the mirror fetched the layer again: %d times", got)
	}
}

// redirected: containerd gets the layer by the mirror's word, and the mirror does not touch it.
func (e *elsewhere) redirected(t *testing.T, f *fleet.Fleet, n *fleet.Node) {
	e.image(t, f, "redirected")
	pull(t, n, f.Upstream.Image("win/redirected:v1"))
	if mirror, runtime := e.count("kioo", "/redirected"), e.count("containerd", "/redirected"); mirror != 0 || runtime != 1 {
		t.Errorf("the mirror got the layer %d times and containerd %d times, want 0 and 1", mirror, runtime)
	}
}

// refused: the pull fails as it does without a mirror, and succeeds when containerd's own attempt does.
func (e *elsewhere) refused(t *testing.T, f *fleet.Fleet, n *fleet.Node) {
	layer := e.image(t, f, "refused")
	if err := n.Pull(t.Context(), f.Upstream.Image("win/refused:v1")); err == nil {
		t.Error("the image was pulled without its layer")
	}
	code, text := askMirror(t, n, http.MethodGet, f.Upstream.Host(), "win/refused/blobs/"+layer.String(), "")
	if code != http.StatusNotFound || !strings.Contains(text, "refuse") {
		t.Errorf("the mirror says %d\n%s", code, text)
	}
	pull(t, n, f.Upstream.Image("win/refused:v1"))
	if mirror, runtime := e.count("kioo", "/refused"), e.count("containerd", "/refused"); mirror != 0 || runtime != 1 {
		t.Errorf("the mirror got the layer %d times and containerd %d times, want 0 and 1", mirror, runtime)
	}
}

// sharedForeign: where it is allowed, the layer comes from the node that fetched it.
func sharedForeign(t *testing.T) {
	f := newFleet(t, fleet.Config{Nodes: 2, Configure: func(_ *fleet.Node, cfg *config.Config) {
		cfg.ForeignLayers.Hosts, cfg.ForeignLayers.AllowHTTP, cfg.ForeignLayers.Share = []string{"*:*"}, true, true
		cfg.ForeignLayers.Networks = []string{"10.77.255.1/32"}
	}})
	e := newElsewhere(t, f)
	layer := e.image(t, f, "shared")
	pullAnnounced(t, f.Nodes[0], f.Upstream.Image("win/shared:v1"), 1)
	before := fetched(t, f.Nodes[1], "peer")
	pull(t, f.Nodes[1], f.Upstream.Image("win/shared:v1"))
	if got := fetched(t, f.Nodes[1], "peer") - before; got < 2<<20 {
		t.Errorf("%s got %d bytes from the other node, want all of %s", f.Nodes[1].Name, got, layer)
	}
	if mirror, runtime := e.count("kioo", "/shared"), e.count("containerd", "/shared"); mirror != 1 || runtime != 0 {
		t.Errorf("mirrors got the layer %d times from its url and containerd %d times, want 1 and 0", mirror, runtime)
	}
}

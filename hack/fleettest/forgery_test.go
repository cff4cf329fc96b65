package fleettest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// attacker is a public address, as far as the fleet goes, and second another one of the same person.
	attacker, second = "20.1.2.3", "20.1.2.4"
	attackerPort     = "5004"
	// baitPort is that of services inside, which say what the outside must not know.
	baitPort = "9000"
	inside   = "what is inside of the network"
)

// trap is a node, what is inside of its network, and a registry outside of it that wants to know that.
type trap struct {
	*fleet.Fleet
	node    *fleet.Node
	touched sync.Map // Which services inside were asked, by address.
	reached atomic.Int64

	mu    sync.Mutex
	paths []string // What the attacker's servers were asked for.
}

// TestForgery has a registry try to make a node ask services inside of its network: by redirects, challenges, urls of
// layers and links, and by names.
func TestForgery(t *testing.T) {
	f := newFleet(t, fleet.Config{Nodes: 1, NoKey: true, Configure: func(_ *fleet.Node, cfg *config.Config) {
		// Whoever is named is asked without TLS, so that what is asked is what is refused.
		open := config.DefaultRegistry()
		open.Match, open.Endpoints = "*", []config.Endpoint{config.EndpointAt("http://{registry}")}
		rewritten := open
		rewritten.Match = "*/rewritten/*"
		rewritten.Endpoints = []config.Endpoint{config.EndpointAt("http://" + attacker + ":" + attackerPort)}
		rewritten.Endpoints[0].Repository = "all/{registry}/{*}"
		cfg.Registries = []config.Registry{rewritten, open}
		cfg.ForeignLayers.Hosts, cfg.ForeignLayers.AllowHTTP = []string{"*", "*:*"}, true
		cfg.Upstream.Attempts = 1
		cfg.Log.Level = "debug"
	}})
	tr := &trap{Fleet: f, node: f.Nodes[0]}
	targets := tr.build(t)
	for _, target := range targets {
		t.Run(target, func(t *testing.T) { tr.attack(t, target) })
	}
	t.Run("names", tr.names)
	t.Run("paths", tr.rewrites)
	tr.works(t)
	tr.touched.Range(func(address, _ any) bool {
		t.Errorf("the node asked %s", address)
		return true
	})
	if strings.Contains(f.Nodes[0].Log(), inside) {
		t.Error("the log has what is inside")
	}
	// What was not asked could have been.
	for _, target := range targets {
		if resp, err := tr.node.Get(t.Context(), target); err != nil {
			t.Errorf("%s can't be reached at all: %v", target, err)
		} else {
			resp.Body.Close()
		}
	}
}

// build runs everything and gives the URLs of what is inside: this machine, its own address, its cloud's metadata, a
// neighbour, and the same in disguise.
func (tr *trap) build(t *testing.T) []string {
	t.Helper()
	for place, line := range map[*fleet.Place]string{
		tr.node.Place:     "addr add 169.254.169.254/32 dev lo",
		tr.Upstream.Place: "addr add " + attacker + "/32 dev lo",
	} {
		if _, err := place.Output(t.Context(), "ip", strings.Fields(line)...); err != nil {
			t.Fatal(err)
		}
	}
	for place, lines := range map[*fleet.Place][]string{
		tr.node.Place: {"addr add 100.100.100.200/32 dev lo", "route add " + attacker + "/32 via " + tr.Upstream.Addr.String(),
			"route add " + second + "/32 via " + tr.Upstream.Addr.String()},
		tr.Upstream.Place: {"addr add " + second + "/32 dev lo"},
	} {
		for _, line := range lines {
			if _, err := place.Output(t.Context(), "ip", strings.Fields(line)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	neighbour := net.JoinHostPort(tr.Upstream.Addr.String(), baitPort)
	tr.serve(t, tr.Upstream.Place, neighbour, tr.bait(neighbour))
	hosts := []string{"127.0.0.1", "[::1]", tr.node.Addr.String(), "169.254.169.254", "100.100.100.200"}
	for _, host := range hosts {
		tr.serve(t, tr.node.Place, host+":"+baitPort, tr.bait(host))
	}
	for _, host := range []string{attacker, second} {
		tr.serve(t, tr.Upstream.Place, host+":"+attackerPort, http.HandlerFunc(tr.answer))
	}
	targets := []string{"http://" + neighbour + "/"}
	for _, host := range append(hosts, "0.0.0.0", "[::ffff:127.0.0.1]") {
		targets = append(targets, "http://"+host+":"+baitPort+"/latest/meta-data/")
	}
	return targets
}

func (tr *trap) serve(t *testing.T, place *fleet.Place, address string, handler http.Handler) {
	t.Helper()
	l, err := place.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
}

// bait is a service inside, which looks like whatever somebody may want: a token, or a manifest.
func (tr *trap) bait(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.UserAgent(), "kioo/") {
			tr.touched.Store(name, true)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"token":"`+inside+`","access_token":"`+inside+`"}`)
	}
}

// answer is the attacker's registry. Its repositories' names say what it does, and the query of "to" at which target.
func (tr *trap) answer(w http.ResponseWriter, r *http.Request) {
	tr.mu.Lock()
	tr.paths = append(tr.paths, r.URL.Path)
	tr.mu.Unlock()
	if strings.Contains(fmt.Sprint(r.Header), inside) {
		tr.touched.Store("… and told the attacker what it found", true)
	}
	target, _ := url.QueryUnescape(r.URL.Query().Get("to"))
	how := strings.Split(r.URL.Path, "/")
	if target == "" && len(how) > 3 {
		target = targetOf(how[3])
	}
	switch how[min(2, len(how)-1)] {
	case "redirect", "token":
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case "chain":
		next := "http://" + second + ":" + attackerPort + "/v2/redirect?to=" + url.QueryEscape(target)
		http.Redirect(w, r, next, http.StatusFound)
	case "challenge":
		refuse(w, target)
	case "chained-challenge":
		refuse(w, "http://"+attacker+":"+attackerPort+"/v2/token?to="+url.QueryEscape(target))
	case "second-challenge":
		refuse(w, "http://"+second+":"+attackerPort+"/v2/token?to="+url.QueryEscape(target))
	case "link":
		w.Header().Set("Link", "<"+target+`>; rel="next"`)
		_, _ = io.WriteString(w, `{"name":"x","tags":["a"]}`)
	case "foreign":
		tr.foreign(w, r, target)
	case "foreign-chain":
		tr.foreign(w, r, "http://"+second+":"+attackerPort+"/v2/redirect?to="+url.QueryEscape(target))
	case "fine":
		tr.reached.Add(1)
		next := "http://" + second + ":" + attackerPort + "/v2/blob"
		http.Redirect(w, r, next, http.StatusTemporaryRedirect)
	case "blob":
		_, _ = io.WriteString(w, "fine")
	default:
		http.NotFound(w, r)
	}
}

func refuse(w http.ResponseWriter, realm string) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x"`, realm))
	w.WriteHeader(http.StatusUnauthorized)
}

// foreign gives a manifest with a layer that is at a url.
func (tr *trap) foreign(w http.ResponseWriter, r *http.Request, at string) {
	if !strings.Contains(r.URL.Path, "/manifests/") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	_, _ = fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"c","digest":%q,"size":2},"layers":[{"mediaType":"l","digest":%q,"size":%d,"urls":[%q]}]}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), layerOf(at), len(inside), at)
}

func layerOf(at string) digest.Digest { return digest.FromString("layer at " + at) }

// componentOf writes a target as a component of a repository's name, and targetOf reads it.
func componentOf(target string) string {
	return "x" + fmt.Sprintf("%x", target)
}

func targetOf(component string) string {
	var target []byte
	if _, err := fmt.Sscanf(strings.TrimPrefix(component, "x"), "%x", &target); err != nil {
		return ""
	}
	return string(target)
}

// attack asks the mirror for everything by which the attacker can point at a target.
func (tr *trap) attack(t *testing.T, target string) {
	registry := attacker + ":" + attackerPort
	blob := "blobs/" + digest.FromString(target).String()
	for _, how := range []string{"redirect", "chain", "challenge", "chained-challenge", "second-challenge", "link", "foreign", "foreign-chain"} {
		repository := how + "/" + componentOf(target)
		objects := []string{"manifests/v1", "manifests/" + digest.FromString(target).String(), blob, "tags/list", "referrers/" + digest.FromString(target).String()}
		switch how {
		case "foreign":
			objects = append(objects, "blobs/"+layerOf(target).String())
		case "foreign-chain":
			objects = append(objects, "blobs/"+layerOf("http://"+second+":"+attackerPort+"/v2/redirect?to="+url.QueryEscape(target)).String())
		}
		for _, object := range objects {
			for _, authorization := range []string{"", "Bearer somebody"} {
				code, text := askMirror(t, tr.node, http.MethodGet, registry, repository+"/"+object, authorization)
				if strings.Contains(text, inside) {
					t.Errorf("%s, %s: %d\n%s", how, object, code, text)
				}
				given := strings.HasPrefix(how, "foreign") && !strings.HasPrefix(object, "blobs/") || how == "link"
				if code < 300 && !given { // What a registry says of itself is all it may say.
					t.Errorf("%s, %s: %d\n%s", how, object, code, text)
				}
			}
		}
	}
}

// names are those of registries that lead inside: in disguise, or where nobody has a registry.
func (tr *trap) names(t *testing.T) {
	for _, name := range []string{
		"169.254.169.254:" + baitPort, "0.0.0.0:" + baitPort, "[::]:" + baitPort, "127.1:" + baitPort,
		"2130706433:" + baitPort, "0x7f.0.0.1:" + baitPort, "0177.0.0.1:" + baitPort, "[::ffff:a9fe:a9fe]:" + baitPort, "[64:ff9b::a9fe:a9fe]:" + baitPort,
		"169.254.169.254.:" + baitPort, "x@169.254.169.254:" + baitPort, "169.254.169.254:" + baitPort + "/latest",
		"169.254.169.254:" + baitPort + "?x", "169.254.169.254:" + baitPort + "#", "http://169.254.169.254:" + baitPort, `169.254.169.254\:` + baitPort,
		"224.0.0.1:" + baitPort, "255.255.255.255:" + baitPort, "[fd00:ec2::254]:" + baitPort, "[fe80::1]:" + baitPort, " 127.0.0.1:" + baitPort,
	} {
		for _, object := range []string{"manifests/v1", "tags/list", "blobs/" + digest.FromString(name).String()} {
			code, text := askMirror(t, tr.node, http.MethodGet, name, "latest/meta-data/"+object, "")
			if code < 400 || strings.Contains(text, inside) {
				t.Errorf("%s, %s: %d\n%s", name, object, code, text)
			}
		}
	}
}

// rewrites are paths that want to leave the place that an endpoint's rewrite gives them.
func (tr *trap) rewrites(t *testing.T) {
	tr.mu.Lock()
	tr.paths = nil
	tr.mu.Unlock()
	for _, path := range []string{
		"rewritten/../../latest/manifests/v1", "rewritten/%2e%2e/%2e%2e/latest/manifests/v1", "rewritten/a/..%2f..%2flatest/manifests/v1",
		"rewritten//latest/manifests/v1", "rewritten/a%3fx=/manifests/v1", "rewritten/a%23/manifests/v1", "rewritten/@20.1.2.4/manifests/v1",
		"rewritten/a%0d%0aX: y/manifests/v1", "rewritten/a/manifests/..", "rewritten/a/manifests/%2e%2e%2f%2e%2e", "rewritten/.../manifests/v1",
		"rewritten/{registry}/manifests/v1", "rewritten/a/manifests/v1",
	} {
		req := &http.Request{Method: http.MethodGet, Header: http.Header{}, Host: fleet.MirrorAddr, URL: &url.URL{
			Scheme: "http", Host: fleet.MirrorAddr, Opaque: "//" + fleet.MirrorAddr + "/v2/" + path, RawQuery: "ns=quay.io",
		}}
		resp, err := tr.node.Client().Transport.RoundTrip(req.WithContext(t.Context()))
		if err != nil {
			continue // Not even a request.
		}
		resp.Body.Close()
		if resp.StatusCode < 300 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, path := range tr.paths {
		if !strings.HasPrefix(path, "/v2/all/quay.io/") || strings.Contains(path, "..") {
			t.Errorf("the endpoint was asked for %s", path)
		}
	}
	if len(tr.paths) == 0 {
		t.Error("the endpoint was never asked")
	}
}

// works: what leads nowhere inside is followed, so that all of the above is refused for where it leads.
func (tr *trap) works(t *testing.T) {
	t.Helper()
	code, text := askMirror(t, tr.node, http.MethodGet, attacker+":"+attackerPort, "fine/app/blobs/"+digest.FromString("fine").String(), "")
	if code != http.StatusOK || !strings.HasSuffix(text, "fine") || tr.reached.Load() == 0 {
		t.Errorf("a redirect to a public address: %d\n%s", code, text)
	}
}

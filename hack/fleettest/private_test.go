package fleettest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

// The tenants of the cluster, and the repository of each. Their passwords are looked for where they should not be.
const (
	tenantA, passwordA = "tenant-a", "planted-password-of-a"
	tenantB, passwordB = "tenant-b", "planted-password-of-b"
	repoA, repoB       = "tenant-a/app", "tenant-b/app"
	// claimant is the port of a registry that says of everything that it has it.
	claimant = 5002
)

// tenancy is a fleet whose upstream serves two tenants.
type tenancy struct {
	*fleet.Fleet
	auth    registrytest.Auth
	desc    v1.Descriptor
	objects []string // What tenant A's image consists of, below its repository: "blobs/sha256:…".
}

func newTenancy(t *testing.T, auth registrytest.Auth, nodes int, version containerdtest.Version) *tenancy {
	t.Helper()
	users := map[string]registrytest.User{
		tenantA: {Password: passwordA, Repositories: []string{repoA}},
		tenantB: {Password: passwordB, Repositories: []string{repoB}},
	}
	f := newFleet(t, fleet.Config{
		Nodes: nodes, Containerd: version, Registry: registrytest.Config{Auth: auth, Users: users},
		Configure: func(n *fleet.Node, cfg *config.Config) {
			evil := config.DefaultRegistry()
			evil.Match = netip.AddrPortFrom(upstreamOf(cfg), claimant).String()
			evil.Endpoints = []config.Endpoint{config.EndpointAt("http://" + evil.Match)}
			cfg.Registries = append(cfg.Registries, evil)
			plant(t, n, cfg)
		},
	})
	ten := &tenancy{Fleet: f, auth: auth, desc: push(t, f, repoA+":v1", 3<<20, 200_000)}
	push(t, f, repoB+":v1", 10_000)
	ten.objects = objects(t, f)
	return ten
}

// upstreamOf is the address of the fleet's upstream.
func upstreamOf(cfg *config.Config) netip.Addr {
	return netip.MustParseAddrPort(cfg.Registries[0].Match).Addr()
}

// objects gives all that tenant A's image consists of.
func objects(t *testing.T, f *fleet.Fleet) []string {
	t.Helper()
	index, err := registrytest.NewIndex(seed(t.Name()+repoA+":v1"), 3<<20, 200_000)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest) // linux/amd64.
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"manifests/" + digest.String(), "manifests/" + manifest.Manifests[0].Digest.String()}
	for _, d := range append(m.Layers, m.Config) {
		all = append(all, "blobs/"+d.Digest.String())
	}
	return all
}

// token asks the token server for what a user may pull of a repository.
func (ten *tenancy) token(t *testing.T, user, password, repo string) string {
	t.Helper()
	u := "http://" + netip.AddrPortFrom(ten.Upstream.Addr, 5001).String() + "/token?" +
		url.Values{"service": {"registry.example.com"}, "scope": {"repository:" + repo + ":pull"}}.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := ten.Nodes[0].Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("token for %q: %s, %v", user, resp.Status, err)
	}
	return answer.Token
}

// wrong gives the Authorization headers of somebody who may not read a repository, by what is wrong with them.
func (ten *tenancy) wrong(t *testing.T) map[string]string {
	t.Helper()
	basic := func(user, password string) string {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.SetBasicAuth(user, password)
		return req.Header.Get("Authorization")
	}
	headers := map[string]string{"none": "", "wrong password": basic(tenantA, passwordB), "nobody's": basic("nobody", "x"), "junk": "Bearer junk"}
	if ten.auth == registrytest.AuthToken {
		headers["anonymous token"] = "Bearer " + ten.token(t, "", "", repoA)
		headers["tenant B's token for A"] = "Bearer " + ten.token(t, tenantB, passwordB, repoA)
		headers["tenant B's own token"] = "Bearer " + ten.token(t, tenantB, passwordB, repoB)
	}
	return headers
}

// right gives the Authorization header with which a user pulls a repository.
func (ten *tenancy) right(t *testing.T, user, password, repo string) string {
	t.Helper()
	if ten.auth == registrytest.AuthToken {
		return "Bearer " + ten.token(t, user, password, repo)
	}
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.SetBasicAuth(user, password)
	return req.Header.Get("Authorization")
}

// askMirror asks a node's mirror, and gives the status and what else came.
func askMirror(t *testing.T, n *fleet.Node, method, registry, path, authorization string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	u := "http://" + fleet.MirrorAddr + "/v2/" + path + "?ns=" + url.QueryEscape(registry)
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := n.Client().Do(req)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // A body that breaks off is one that was not given.
	var text strings.Builder
	_ = resp.Header.Write(&text) // To memory.
	text.Write(body)
	return resp.StatusCode, text.String()
}

func TestPrivateImages(t *testing.T) {
	for _, test := range []struct {
		auth    registrytest.Auth
		version containerdtest.Version
	}{{registrytest.AuthToken, containerdtest.V2}, {registrytest.AuthBasic, containerdtest.V1}} {
		t.Run(test.auth.String(), func(t *testing.T) {
			ten := newTenancy(t, test.auth, 2, test.version)
			ten.evilTwin(t)
			ten.pullFirst(t)
			t.Run("others do not get it", ten.denied)
			t.Run("nor by other names", ten.otherNames)
			t.Run("the tenant does", ten.served)
			t.Run("not without upstream", ten.offline)
			t.Run("no secret shows", func(t *testing.T) { noSecrets(t, ten) })
		})
	}
}

// pullFirst has tenant A pull on the first node, and waits until the second knows.
func (ten *tenancy) pullFirst(t *testing.T) {
	t.Helper()
	first := ten.Nodes[0]
	before := announced(t, first)
	ten.pullAs(t, first, ten.Upstream.Image(repoA+":v1"), tenantA, passwordA, true)
	waitAnnounced(t, first, before+2+4)
	if got := int64(metrics(t, first).Sum("kioo_flight_bytes_total", `source="upstream"`)); got < 3<<20 {
		t.Fatalf("%d bytes came through Kioo: the test shows nothing", got)
	}
	if agents := asked(ten.Fleet); len(agents) != 1 || !agents["kioo"] {
		t.Errorf("upstream was asked by %v, want kioo alone", agents)
	}
	ten.Upstream.Forget()
}

func (ten *tenancy) pullAs(t *testing.T, n *fleet.Node, image, user, password string, want bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	start := time.Now()
	_, err := n.Containerd.PullAs(ctx, image, user, password)
	if (err == nil) != want {
		t.Errorf("%s: %s pulled by %q: %v", n.Name, image, user, err)
	}
	t.Logf("%s: %s by %q after %v: %v", n.Name, image, user, time.Since(start).Round(time.Millisecond), err == nil)
}

// denied: who may not read tenant A's repository gets nothing of it, on either node, whoever has it.
func (ten *tenancy) denied(t *testing.T) {
	host := ten.Upstream.Host()
	for _, n := range ten.Nodes {
		for _, image := range []string{repoA + ":v1", repoA + "@" + ten.desc.Digest.String()} {
			ten.pullAs(t, n, ten.Upstream.Image(image), "", "", false)
			ten.pullAs(t, n, ten.Upstream.Image(image), tenantA, "wrong", false)
			if ten.auth == registrytest.AuthToken {
				ten.pullAs(t, n, ten.Upstream.Image(image), tenantB, passwordB, false)
			}
		}
		for name, header := range ten.wrong(t) {
			for _, object := range append(ten.objects, "manifests/v1", "tags/list") {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					code, text := askMirror(t, n, method, host, repoA+"/"+object, header)
					if code != http.StatusUnauthorized || !strings.Contains(text, "Www-Authenticate") {
						t.Errorf("%s: %s %s with %s: %d\n%s", n.Name, method, object, name, code, text)
					}
				}
			}
		}
	}
	if got := ten.Upstream.BlobBytes(""); got > 64<<10 {
		t.Errorf("upstream served %d bytes of blobs", got) // Error bodies.
	}
}

// otherNames: what is held is not given in the name of a repository that it never came from: not in that of another
// tenant's, nor of a registry that says it has it.
func (ten *tenancy) otherNames(t *testing.T) {
	header := ten.right(t, tenantB, passwordB, repoB)
	evil := netip.AddrPortFrom(ten.Upstream.Addr, claimant).String()
	for _, n := range ten.Nodes {
		if code, _ := askMirror(t, n, http.MethodGet, ten.Upstream.Host(), repoB+"/manifests/v1", header); code != http.StatusOK {
			t.Fatalf("%s: tenant B's own image: %d", n.Name, code)
		}
		for _, object := range ten.objects {
			if code, text := askMirror(t, n, http.MethodGet, ten.Upstream.Host(), repoB+"/"+object, header); code == http.StatusOK {
				t.Errorf("%s: %s in the name of %s: %d\n%.300s", n.Name, object, repoB, code, text)
			}
			code, text := askMirror(t, n, http.MethodGet, evil, "any/name/"+object, "")
			if code == http.StatusOK && !strings.Contains(text, garbage) {
				t.Errorf("%s: %s in the name of a registry that claims it: %.300s", n.Name, object, text)
			}
		}
	}
}

// garbage is what the claimant has instead of what it says it has.
const garbage = "this is not it "

// evilTwin is a registry that needs no credentials, says of everything that it has it, and gives something else.
func (ten *tenancy) evilTwin(t *testing.T) {
	t.Helper()
	l, err := ten.Upstream.Listen(netip.AddrPortFrom(ten.Upstream.Addr, claimant).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/"+locked) {
			repeatCredentials(w, r)
			return
		}
		object := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		w.Header().Set("Docker-Content-Digest", object)
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w.Header().Set("Content-Length", strconv.Itoa(200_000))
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, strings.Repeat(garbage, 200_000/len(garbage)+1)[:200_000])
		}
	})}}
	server.Start()
	t.Cleanup(server.Close)
}

// served: tenant A's pod on the second node gets the image from the first, and upstream sends no blob.
func (ten *tenancy) served(t *testing.T) {
	ten.Upstream.Forget()
	second := ten.Nodes[1]
	before := fetched(t, second, "peer")
	for _, image := range []string{repoA + ":v1", repoA + "@" + ten.desc.Digest.String()} {
		ten.pullAs(t, second, ten.Upstream.Image(image), tenantA, passwordA, true)
	}
	if got := fetched(t, second, "peer") - before; got < 3<<20 {
		t.Errorf("%d bytes came from the other node", got)
	}
	for _, r := range ten.Upstream.BlobRequests("") {
		t.Errorf("upstream was asked for %s, and said %d", r.URI, r.Status)
	}
	if agents := asked(ten.Fleet); len(agents) != 1 || !agents["kioo"] {
		t.Errorf("upstream was asked by %v, want kioo alone", agents)
	}
	header := ten.right(t, tenantA, passwordA, repoA)
	for _, object := range append(ten.objects, "manifests/v1", "tags/list") {
		if code, text := askMirror(t, second, http.MethodGet, ten.Upstream.Host(), repoA+"/"+object, header); code != http.StatusOK {
			t.Errorf("%s: %d\n%.300s", object, code, text)
		}
	}
}

// offline: while upstream can't say who may read, nobody does.
func (ten *tenancy) offline(t *testing.T) {
	header := ten.right(t, tenantB, passwordB, repoB)
	ten.Upstream.Stop()
	defer resume(t, ten.Fleet)
	for _, n := range ten.Nodes {
		for _, header := range []string{"", header, "Bearer other"} {
			for _, object := range ten.objects {
				if code, text := askMirror(t, n, http.MethodGet, ten.Upstream.Host(), repoA+"/"+object, header); code == http.StatusOK {
					t.Errorf("%s: %s: %d\n%.300s", n.Name, object, code, text)
				}
			}
		}
	}
}

// TestOutageIsAllowedFor has nodes that give everything to everybody while upstream is down: the tenant's pod gets the
// image from another node, though nobody gives it a token, and so does anybody else's, as configured.
func TestOutageIsAllowedFor(t *testing.T) {
	f := newFleet(t, fleet.Config{
		Nodes: 2, Registry: registrytest.Config{
			Auth: registrytest.AuthToken, Users: map[string]registrytest.User{tenantA: {Password: passwordA, Repositories: []string{repoA}}},
		},
		Configure: func(_ *fleet.Node, cfg *config.Config) { cfg.Access.OfflineFor = time.Hour },
	})
	image := f.Upstream.Image(repoA + ":v1")
	push(t, f, repoA+":v1", 1<<20)
	ten := &tenancy{Fleet: f}
	before := announced(t, f.Nodes[0])
	ten.pullAs(t, f.Nodes[0], image, tenantA, passwordA, true)
	waitAnnounced(t, f.Nodes[0], before+1+4)
	ten.pullAs(t, f.Nodes[1], image, "", "", false)
	f.Upstream.Stop()
	defer resume(t, f)
	pulls := func(user, password string) func() bool {
		return func() bool {
			_, err := f.Nodes[1].Containerd.PullAs(t.Context(), image, user, password)
			return err == nil
		}
	}
	// The node sent somebody away just now, and takes upstream to be there for some seconds more.
	eventually(t, settleTime, "the tenant gets the image", pulls(tenantA, passwordA))
	if err := f.Nodes[1].Containerd.Remove(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	eventually(t, settleTime, "somebody else gets the image", pulls("", ""))
}

package upstream

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

const realmOfTenants = `Bearer realm="http://10.1.2.3/token",service="tenants",scope="repository:team/app:pull"`

// tenants is a registry that knows two tokens, and redirects to storage.
func tenants(t *testing.T, data []byte) (registry, storage *server) {
	t.Helper()
	storage = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	registry = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		switch r.Header.Get("Authorization") {
		case "Bearer a", "Bearer b":
			// Another name of the same machine is another origin.
			http.Redirect(w, r, strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)+"/signed", http.StatusTemporaryRedirect)
		case "Bearer forbidden":
			w.WriteHeader(http.StatusForbidden)
		default:
			w.Header().Set("WWW-Authenticate", realmOfTenants)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	return registry, storage
}

func TestClientCredentials(t *testing.T) {
	data := randomBytes(1000)
	registry, storage := tenants(t, data)
	cache := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { w.WriteHeader(http.StatusNotFound) })
	var mu sync.Mutex
	var outcomes []string
	cfg := fast(at(cache, registry)...)
	cfg.Credentials = dockerConfig(t, registry.host(), "node:own")
	cfg.Observe = func(a access.Answer) {
		mu.Lock()
		defer mu.Unlock()
		outcomes = append(outcomes, fmt.Sprint(!a.Credentials.IsZero(), a.Speaker, a.Status))
	}
	c := client(t, cfg)
	get := func(header string) error {
		b, err := c.Blob(t.Context(), repo, digest.FromBytes(data), 0, -1, Origin{Credentials: access.NewCredentials(header)})
		if err != nil {
			return err
		}
		defer b.Close()
		var got bytes.Buffer
		if _, err := got.ReadFrom(b); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%s: got %d bytes, error %v", header, got.Len(), err)
		}
		return nil
	}
	for _, header := range []string{"Bearer a", "Bearer b", "Bearer a"} {
		if err := get(header); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
	if n := len(cache.seen()); n != 0 {
		t.Errorf("the cache before the registry got %d requests with a client's credentials", n)
	}
	if n := len(registry.seen()); n != 3 {
		t.Errorf("the registry got %d requests: a redirect of one client was used for another", n)
	}
	for header, challenged := range map[string]bool{"Bearer wrong": true, "Bearer forbidden": false, "Basic dTpw": true} {
		err := get(header)
		var e *Error
		if !errors.Is(err, ErrDenied) || !errors.As(err, &e) || slices.Equal(e.Challenge, []string{realmOfTenants}) != challenged {
			t.Errorf("%s: got error %v with challenge %q", header, err, e.Challenge)
		}
	}
	for _, r := range storage.seen() {
		if r.Header.Get("Authorization") != "" {
			t.Error("storage got the client's credentials")
		}
	}
	want := []string{"true 1 200", "true 1 200", "true 1 200", "true 2 401", "true 2 403", "true 2 401"}
	if !slices.Equal(outcomes, want) {
		t.Errorf("observed %q", outcomes)
	}
}

// What a registry repeats of somebody's credentials goes into no log and to no other client.
func TestRefusalRepeatsCredentials(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		said := r.Header.Get("Authorization")
		if _, password, ok := r.BasicAuth(); ok {
			said = password
		}
		if said == "Bearer other" {
			said = "you"
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"do not know %s"}]}`, said)
	})
	c := client(t, fast(at(s)...))
	for _, header := range []string{"Bearer planted-token", "Basic " + base64.StdEncoding.EncodeToString([]byte("u:planted-password")), "Bearer other"} {
		_, err := c.Manifest(t.Context(), reference.Reference{Repository: repo, Tag: "v1"}, Origin{Credentials: access.NewCredentials(header)})
		if err == nil || strings.Contains(err.Error(), "planted") {
			t.Errorf("%q: got error %v", header, err)
		}
		if header == "Bearer other" && !strings.Contains(err.Error(), "do not know") {
			t.Errorf("the registry's reason is lost: %v", err)
		}
	}
}

// What the registry wants of clients is known, whatever became of the node's own attempt to answer it. A realm inside
// of the network is not asked by the node: it would hand what it finds there to whoever named it.
func TestChallengeIsKept(t *testing.T) {
	for name, realm := range map[string]string{
		"private":       "http://10.1.2.3/token",
		"link-local":    "http://169.254.169.254/latest/meta-data/iam/security-credentials/role",
		"unique local":  "http://[fd00::1]/token",
		"mapped":        "http://[::ffff:10.0.0.1]/token",
		"unspecified":   "http://0.0.0.0/token",
		"carrier":       "https://100.64.0.1/token",
		"alibaba":       "https://100.100.100.200/token",
		"azure":         "http://168.63.129.16/machine",
		"aws":           "http://[fd00:ec2::23]/v1/credentials",
		"own realm 403": "",
	} {
		t.Run(name, func(t *testing.T) {
			var challenge string
			s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				if r.URL.Path == "/token" {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
			})
			if realm == "" {
				realm = s.URL + "/token"
			}
			challenge = fmt.Sprintf("Bearer realm=%q,service=\"x\"", realm)
			_, err := client(t, fast(at(s)...)).Head(t.Context(), reference.Reference{Repository: repo, Tag: "v1"}, "", Origin{})
			var e *Error
			if !errors.Is(err, ErrDenied) || !errors.As(err, &e) || !slices.Equal(e.Challenge, []string{challenge}) {
				t.Fatalf("got error %v with challenge %q", err, e.Challenge)
			}
			if inside := realm != s.URL+"/token"; inside != errors.Is(err, errInside) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

// Whoever is trusted with the node's own credentials may still not have them sent to where a cloud has its own.
func TestOwnCredentialsGoToNoCloud(t *testing.T) {
	for _, realm := range []string{"http://169.254.169.254/token", "http://168.63.129.16/token", "http://[fd00:ec2::254]/token", "http://[::ffff:a83f:8110]/token"} {
		for _, networks := range [][]netip.Prefix{nil, {netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}} {
			s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"x\"", realm))
				w.WriteHeader(http.StatusUnauthorized)
			})
			cfg := fast(at(s)...)
			cfg.Credentials, cfg.Networks = dockerConfig(t, s.host(), "node:own"), networks
			_, err := client(t, cfg).Head(t.Context(), reference.Reference{Repository: repo, Tag: "v1"}, "", Origin{})
			if !errors.Is(err, ErrDenied) || !errors.Is(err, errInside) {
				t.Errorf("%s: got error %v", realm, err)
			}
		}
	}
}

// Own credentials are for registries that an administrator chose: these may have their token service where they like.
// Other repositories of the registry may be without them.
func TestOwnCredentialsAreForSome(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Length", "3")
	})
	cfg := fast(at(s)...)
	cfg.Credentials = dockerConfig(t, s.host(), "node:own")
	cfg.Own = func(r reference.Repository) bool { return r.Path == "ours" }
	c := client(t, cfg)
	for path, want := range map[string]error{"ours": nil, "theirs": ErrDenied} {
		_, err := c.StatBlob(t.Context(), reference.Repository{Registry: registryName, Path: path}, digest.FromString("x"), Origin{})
		if !errors.Is(err, want) {
			t.Errorf("%s: got error %v", path, err)
		}
	}
}

func TestPublicAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1": true, "2606:4700::1111": true, "::ffff:1.1.1.1": true,
		"127.0.0.1": false, "::1": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false,
		"169.254.169.254": false, "fe80::1%eth0": false, "fd00:ec2::254": false, "100.64.0.1": false, "0.0.0.0": false,
		"224.0.0.1": false, "255.255.255.255": false, "::": false, "::ffff:127.0.0.1": false, "64:ff9b::a00:1": false, "64:ff9b::101:101": true,
		"2002:a00:1::": false, "198.18.0.1": false,
	} {
		if got := isPublic(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is public: %v", address, got)
		}
	}
}

// Who names a realm chooses where the node's requests go, but for what an administrator chose.
func TestTokenRoute(t *testing.T) {
	proxy := func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.example.com:3128") }
	direct := func(*http.Request) (*url.URL, error) { return nil, nil }
	ep := &endpoint{
		url: mustParse(t, "https://registry.internal:5000/"), direct: &http.Transport{MaxIdleConns: 1},
		away: &http.Transport{MaxIdleConns: 2}, outside: &http.Transport{MaxIdleConns: 3},
		redirects: &http.Transport{MaxIdleConns: 4}, // As far in as the registry is.
		trusted:   &http.Transport{MaxIdleConns: 5}, // Anywhere but where nobody is meant.
	}
	for _, test := range []struct {
		name, realm string
		proxy       func(*http.Request) (*url.URL, error)
		secret      bool
		want        http.RoundTripper
	}{
		{"own origin", "https://registry.internal:5000/token", direct, false, ep.direct},
		{"own host", "http://registry.internal/token", direct, false, ep.redirects},
		{"own host, with credentials", "http://registry.internal/token", direct, true, ep.trusted},
		{"own host, by a proxy", "http://registry.internal/token", proxy, false, ep.redirects},
		{"allowed host", "https://AUTH.internal./token", direct, false, ep.trusted},
		{"another", "https://auth.example.com/token", direct, false, ep.outside},
		{"another, with credentials", "https://auth.example.com/token", direct, true, ep.trusted},
		{"another, by a proxy", "https://auth.example.com/token", proxy, false, ep.away},
		{"an address inside, by a proxy", "http://169.254.169.254/token", proxy, false, nil},
		{"this machine", "http://127.0.0.1:28504/metrics", direct, false, ep.outside},
	} {
		tr := &tokenTransport{endpoint: ep, realms: []string{"auth.internal"}, proxy: test.proxy}
		req := &http.Request{Method: http.MethodGet, URL: mustParse(t, test.realm), Header: http.Header{}}
		if test.secret {
			req.SetBasicAuth("ann", "s3cret")
		}
		got, err := tr.route(req)
		if got != test.want || (err != nil) != (test.want == nil) {
			t.Errorf("%s: got %v, error %v", test.name, got, err)
		}
	}
	for registry, realm := range map[string]string{
		"https://10.1.2.3:5000/": "http://10.1.2.3/token", "http://localhost:5000/": "http://127.0.0.1:5001/token",
		"https://[fd00::1]/": "https://[fd00::1]:8443/token",
	} {
		// An address is what it is, whoever resolves names.
		at := &endpoint{url: mustParse(t, registry), away: ep.away, redirects: ep.redirects, outside: ep.outside}
		got, err := (&tokenTransport{endpoint: at, proxy: direct}).route(&http.Request{Method: http.MethodGet, URL: mustParse(t, realm)})
		if err != nil || got != ep.away {
			t.Errorf("%s of %s: got %v, error %v", realm, registry, got, err)
		}
	}
	if err := publicOnly("tcp", "127.0.0.1:28504", nil); !errors.Is(err, errInside) {
		t.Errorf("this machine is reached: %v", err)
	}
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

package upstream

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
)

func caFile(t *testing.T, s *server) string {
	t.Helper()
	block := pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}
	return writeFile(t, "ca.pem", string(pem.EncodeToMemory(&block)))
}

// clientPair makes a client certificate that signs itself.
func clientPair(t *testing.T) (certFile, keyFile string, cert *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kioo"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile = writeFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	keyFile = writeFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certFile, keyFile, cert
}

func TestOwnCA(t *testing.T) {
	data := randomBytes(100)
	s := newServer(func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	s.StartTLS()
	t.Cleanup(s.Close)
	if _, _, err := readBlob(t, client(t, fast(Endpoint{URL: s.URL, CAFile: caFile(t, s)})), data, 0, -1); err != nil {
		t.Error(err)
	}
	_, _, err := readBlob(t, client(t, fast(at(s)...)), data, 0, -1)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its authority, got error %v", err)
	}
	if len(s.seen()) != 1 {
		t.Errorf("%d requests, want 1", len(s.seen()))
	}
}

// The client certificate is for the endpoint alone, even where storage that it redirects to would like to see it.
func TestClientCertificate(t *testing.T) {
	data := randomBytes(100)
	certFile, keyFile, cert := clientPair(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	storage := newServer(func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	storage.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	storage.StartTLS()
	t.Cleanup(storage.Close)
	s := newServer(func(w http.ResponseWriter, r *http.Request, _ int) {
		http.Redirect(w, r, storage.URL+"/data", http.StatusTemporaryRedirect)
	})
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)

	e := Endpoint{URL: s.URL, CAFile: caFile(t, s), ClientCertFile: certFile, ClientKeyFile: keyFile}
	if _, _, err := readBlob(t, client(t, fast(e)), data, 0, -1); err != nil {
		t.Fatal(err)
	}
	if n := len(s.seen()[0].TLS.PeerCertificates); n != 1 {
		t.Errorf("the endpoint saw %d client certificates", n)
	}
	if n := len(storage.seen()[0].TLS.PeerCertificates); n != 0 {
		t.Errorf("storage saw %d client certificates", n)
	}
}

// Whatever an endpoint before the registry does, the registry is asked.
func TestEndpointOrder(t *testing.T) {
	data := randomBytes(1000)
	for name, first := range map[string]step{
		"404": status(404), "401": status(401), "403": status(403), "429": status(429, "Retry-After", "600"),
		"500": status(500), "502": status(502), "508": status(508), "400": status(400),
		"closes": breakAfter(0, byFIN), "resets": func(w http.ResponseWriter, _ *http.Request, _ []byte) { reset(w) },
		"silent": func(_ http.ResponseWriter, r *http.Request, _ []byte) { stall(r) },
	} {
		cache := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { first(w, r, data) })
		origin := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
		cfg := fast(at(cache, origin)...)
		if name == "silent" {
			cfg.Timeouts.FirstByte = 50 * time.Millisecond
		}
		c := client(t, cfg)
		for range 2 {
			if got, _, err := readBlob(t, c, data, 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: got %d bytes, error %v", name, len(got), err)
			}
		}
		// A cache that answered is asked again; one that did not is left alone for a while.
		if n := len(cache.seen()); name == "silent" && n != 1 || name == "404" && n != 2 {
			t.Errorf("%s: the cache was asked %d times", name, n)
		}
	}
	cache := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	origin := serve(t, func(http.ResponseWriter, *http.Request, int) {})
	if _, _, err := readBlob(t, client(t, fast(at(cache, origin)...)), data, 0, -1); err != nil || len(origin.seen()) != 0 {
		t.Errorf("a cache that has it: error %v, registry asked %d times", err, len(origin.seen()))
	}
}

// The registry itself has the last word on what there is.
func TestLastEndpointDecides(t *testing.T) {
	for _, tt := range []struct {
		cache, origin int
		want          error
	}{{404, 403, ErrDenied}, {503, 404, ErrNotFound}, {403, 404, ErrNotFound}, {404, 508, ErrLoop}, {404, 503, ErrUnavailable}} {
		cache := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(tt.cache) })
		origin := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(tt.origin) })
		_, _, err := readBlob(t, client(t, fast(at(cache, origin)...)), nil, 0, -1)
		if !errors.Is(err, tt.want) {
			t.Errorf("%d, then %d: got error %v", tt.cache, tt.origin, err)
		}
		if !strings.Contains(err.Error(), cache.host()) || !strings.Contains(err.Error(), origin.host()) {
			t.Errorf("error does not name both endpoints: %v", err)
		}
	}
}

func TestEndpointURLs(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(404) })
	for _, tt := range []struct {
		endpoint Endpoint
		want     string
	}{
		{Endpoint{URL: s.URL}, "/v2/team/app/manifests/v1"},
		{Endpoint{URL: s.URL + "/"}, "/v2/team/app/manifests/v1"},
		{Endpoint{URL: s.URL + "/mirror"}, "/mirror/v2/team/app/manifests/v1"},
		{Endpoint{URL: s.URL, Rewrite: below("proxy/hub")}, "/v2/proxy/hub/team/app/manifests/v1"},
		{Endpoint{URL: s.URL, MirrorsNamespace: true}, "/v2/team/app/manifests/v1?ns=registry.test"},
	} {
		if err := tt.endpoint.Check(); err != nil {
			t.Error(err)
		}
		_, err := client(t, fast(tt.endpoint)).Manifest(t.Context(), reference.Reference{Repository: repo, Tag: "v1"}, Origin{})
		if seen := s.seen(); !errors.Is(err, ErrNotFound) || seen[len(seen)-1].RequestURI != tt.want {
			t.Errorf("%+v: asked for %s, error %v", tt.endpoint, seen[len(seen)-1].RequestURI, err)
		}
	}
}

func below(prefix string) func(reference.Repository) (string, error) {
	return func(r reference.Repository) (string, error) { return prefix + "/" + r.Path, nil }
}

// A name that an endpoint can't have is no request: the next endpoint is asked.
func TestRewriteRefused(t *testing.T) {
	cache := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(404) })
	origin := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, []byte("data")) })
	refuse := func(reference.Repository) (string, error) { return "", errors.New("no name there") }
	c := client(t, fast(Endpoint{URL: cache.URL, Rewrite: refuse}, Endpoint{URL: origin.URL}))
	if got, _, err := readBlob(t, c, []byte("data"), 0, -1); string(got) != "data" || err != nil || len(cache.seen()) != 0 {
		t.Errorf("got %q, error %v, after %d requests", got, err, len(cache.seen()))
	}
	c = client(t, fast(Endpoint{URL: cache.URL, Rewrite: refuse}))
	if _, _, err := readBlob(t, c, nil, 0, -1); !errors.Is(err, ErrInvalid) || len(cache.seen()) != 0 {
		t.Errorf("error %v after %d requests", err, len(cache.seen()))
	}
}

func TestEndpointCheck(t *testing.T) {
	for _, e := range []Endpoint{
		{}, {URL: "quay.io"}, {URL: "ftp://quay.io"}, {URL: "https://"}, {URL: "https://ann:s3cret@quay.io"},
		{URL: "https://quay.io/v2"}, {URL: "https://quay.io/a/v2/"}, {URL: "https://quay.io?x=1"}, {URL: "https://%zz"},
		{URL: "https://quay.io", CAFile: "/does/not/exist"}, {URL: "https://quay.io", CAFile: os.DevNull},
		{URL: "https://quay.io", ClientCertFile: "/does/not/exist"},
	} {
		err := e.Check()
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%+v: got error %v", e, err)
		}
		c := client(t, fast(e))
		if _, _, err := readBlob(t, c, nil, 0, -1); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v: asking got error %v", e, err)
		}
	}
}

func TestProxy(t *testing.T) {
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Host != "registry.example" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		serveBlob(w, r, []byte("by proxy"))
	})
	cfg := fast(Endpoint{URL: "http://registry.example"})
	cfg.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	if got, _, err := readBlob(t, client(t, cfg), []byte("by proxy"), 0, -1); string(got) != "by proxy" || err != nil {
		t.Errorf("got %q, error %v", got, err)
	}
}

// The proxy comes from the environment, which net/http reads once per process: hence the second process.
func TestProxyFromEnvironment(t *testing.T) {
	const marker = "KIOO_TEST_PROXY"
	if os.Getenv(marker) != "" {
		cfg := fast(Endpoint{URL: "http://registry.example"})
		cfg.Proxy = nil
		if got, _, err := readBlob(t, client(t, cfg), []byte("by proxy"), 0, -1); string(got) != "by proxy" || err != nil {
			t.Errorf("got %q, error %v", got, err)
		}
		return
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "by proxy")
	}))
	defer proxy.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestProxyFromEnvironment$")
	cmd.Env = append(os.Environ(), marker+"=1", "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNothingListens(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request, int) {})
	s.Close()
	_, _, err := readBlob(t, client(t, fast(at(s)...)), nil, 0, -1)
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, io.EOF) {
		t.Errorf("got error %v", err)
	}
}

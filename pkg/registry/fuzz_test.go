package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// FuzzRequest sends paths and queries to an API whose every registry is denied: what parses is refused with 404
// before anything is asked, what does not with 400 or 405, and nothing else ever comes out.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"/v2/", "/v2/a/manifests/v1?ns=quay.io", "/v2/quay.io/a/b/blobs/sha256:x", "/v2/a%2fb/tags/list?n=-1", "/v2/../a/referrers/x",
		"/v2/a/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?ns=%5B::1%5D:5000",
	} {
		f.Add(http.MethodGet, seed)
	}
	f.Add(http.MethodPut, "/v2/a/manifests/v1")
	m, err := mirror.New(mirror.Config{Policy: policyOf(f, "registries: [{match: '*', action: deny}]")})
	if err != nil {
		f.Fatal(err)
	}
	handler := New(Config{Resolver: reference.Resolver{Default: "docker.io"}, Backend: m, Log: logr.Discard()})
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") {
			return // net/http refuses it before us.
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, &http.Request{Method: method, URL: u, Header: http.Header{}})
		switch w.Code {
		case http.StatusOK:
			if p := strings.TrimSuffix(u.EscapedPath(), "/"); p != "/v2" {
				t.Errorf("%s %q is the base endpoint", method, target)
			}
		case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
			if !strings.HasPrefix(w.Body.String(), `{"errors":[{"code":"`) {
				t.Errorf("%s %q: body %q", method, target, w.Body)
			}
		default:
			t.Errorf("%s %q: status %d", method, target, w.Code)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-", "bytes=-5", "bytes=5-4", "bytes=0-1,2-3", "bytes=99999999999999999999-", "bytes= 1-2 "} {
		f.Add(seed, int64(100))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		r, partial, err := parseRange(header, size)
		if r.off < 0 || r.n < 0 || r.off > size || r.n > size-r.off {
			t.Errorf("%q of %d: %d bytes from %d", header, size, r.n, r.off)
		}
		if !partial && err == nil && (r.off != 0 || r.n != size) || partial && r.n == 0 {
			t.Errorf("%q of %d: %+v, partial: %v", header, size, r, partial)
		}
	})
}

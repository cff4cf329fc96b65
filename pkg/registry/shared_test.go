package registry_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestRefusalIsOnesOwn has two clients of a private repository, of which the registry refuses one without a challenge
// from some time on: what it says to that one says nothing of the other.
func TestRefusalIsOnesOwn(t *testing.T) {
	s := newStack(t, options{})
	layer, second := pattern(2000), pattern(3000)
	s.remote.putImage("org/app", "v1", layer, second)
	v2 := s.remote.putImage("org/app", "v2", layer)
	var revoked atomic.Bool
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		header := r.Header.Get("Authorization")
		if header == "Bearer alice" || header == "Bearer bob" && !revoked.Load() {
			return false
		}
		if header == "" {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	for _, token := range []string{"Bearer alice", "Bearer bob"} {
		s.get(t, tagPath, "Authorization", token).expect(t, 200)
	}
	revoked.Store(true)
	for _, path := range []string{
		blobPath("org/app", digest.FromBytes(layer)), "/v2/org/app/manifests/" + v2.String(), "/v2/org/app/manifests/v2",
	} {
		if g := s.get(t, path, "Authorization", "Bearer bob"); g.status == 200 {
			t.Errorf("bob gets %s", path)
		}
		s.get(t, path, "Authorization", "Bearer alice").expect(t, 200)
	}
	path := blobPath("org/app", digest.FromBytes(second))
	if g := s.do(t, http.MethodHead, path, "Authorization", "Bearer bob"); g.status == 200 {
		t.Error("bob hears of a blob")
	}
	s.do(t, http.MethodHead, path, "Authorization", "Bearer alice").expect(t, 200)
}

// TestForeignLayerIsTheRepositorys has a foreign layer of a private repository asked for by who may not read there:
// where it is, how large it is and its bytes are what the repository's manifest says, which he was never given.
func TestForeignLayerIsTheRepositorys(t *testing.T) {
	layer := bytes.Repeat([]byte("windows "), 1000)
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(layer))
	}))
	defer files.Close()
	http.DefaultClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer func() { http.DefaultClient.CheckRedirect = nil }()
	for action, status := range map[string]int{"fetch": 200, "redirect": 307} {
		t.Run(action, func(t *testing.T) {
			s := ruled(t, "foreignLayers: {action: "+action+", allowHTTP: true, hosts: ['127.0.0.1:*'], networks: [127.0.0.0/8]}")
			d, _ := putForeign(t, s.remote, restricted, layer, files.URL+"/layer")
			newGuard(s, map[string]string{"Bearer alice": "org/win"})
			s.get(t, "/v2/org/win/manifests/v1", "Authorization", "Bearer alice").expect(t, 200)
			for _, wait := range []time.Duration{0, 30 * 24 * time.Hour} {
				s.later(wait)
				for _, method := range []string{http.MethodHead, http.MethodGet} {
					for _, token := range []string{"", "Bearer mallory"} {
						g := s.do(t, method, blobPath("org/win", d), "Authorization", token).expect(t, 401)
						if strings.Contains(g.header.Get("Location"), files.URL) {
							t.Errorf("%s after %v: it is at %s", method, wait, g.header.Get("Location"))
						}
					}
				}
			}
			s.get(t, "/v2/org/win/manifests/v1", "Authorization", "Bearer alice").expect(t, 200)
			s.do(t, http.MethodGet, blobPath("org/win", d), "Authorization", "Bearer alice").expect(t, status)
		})
	}
}

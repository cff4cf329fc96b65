package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/opencontainers/go-digest"
)

// challenge is what the guarded registry wants of its clients. The realm is nobody's business but theirs.
const challenge = `Bearer realm="https://169.254.169.254/token",service="registry.example.com",scope="repository:org/app:pull"`

var (
	orgApp = reference.Repository{Registry: upstreamHost, Path: "org/app"}
	evil   = reference.Repository{Registry: upstreamHost, Path: "evil/app"}
)

// guard makes repositories of the remote private: who sends one of the tokens gets in.
type guard struct {
	mu     sync.Mutex
	tokens map[string]string   // A token's repository.
	asked  map[string][]string // The Authorization headers that came, by repository.
}

func newGuard(s *stack, tokens map[string]string) *guard {
	g := &guard{tokens: tokens, asked: map[string][]string{}}
	s.remote.set(g.around)
	return g
}

func (g *guard) around(w http.ResponseWriter, r *http.Request) bool {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	repo := strings.Join(parts[:len(parts)-2], "/")
	g.mu.Lock()
	defer g.mu.Unlock()
	header := r.Header.Get("Authorization")
	g.asked[repo] = append(g.asked[repo], header)
	if strings.HasPrefix(repo, "public/") || header != "" && g.tokens[header] == repo {
		return false
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
	return true
}

// take forgets a token.
func (g *guard) take(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.tokens, token)
}

// headers gives the Authorization headers with which a repository was asked since the last call.
func (g *guard) headers(repo string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	headers := g.asked[repo]
	g.asked[repo] = nil
	return headers
}

func (g got) expectChallenge(t *testing.T) {
	t.Helper()
	if g.expect(t, 401); g.header.Get("WWW-Authenticate") != challenge || len(g.header.Values("WWW-Authenticate")) != 1 {
		t.Errorf("challenge %q, want upstream's", g.header.Values("WWW-Authenticate"))
	}
}

func TestChallengeIsRelayed(t *testing.T) {
	s := newStack(t, options{})
	layer := pattern(1 << 20)
	d := s.remote.putImage("org/app", "v1", layer)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
	blob := blobPath("org/app", digest.FromBytes(layer))
	paths := []string{tagPath, "/v2/org/app/manifests/" + d.String(), blob, "/v2/org/app/tags/list"}
	for _, path := range paths {
		s.get(t, path).expectError(t, 401, "UNAUTHORIZED")
		s.get(t, path).expectChallenge(t)
		s.do(t, http.MethodHead, path).expectChallenge(t)
		s.get(t, path, "Authorization", "Bearer wrong").expectChallenge(t)
	}
	for _, path := range paths[:3] {
		s.get(t, path, "Authorization", "Bearer alice").expect(t, 200, "WWW-Authenticate", "-")
	}
	s.get(t, paths[3], "Authorization", "Bearer alice").expect(t, 404) // This registry has no lists, and said so.
	s.heldSoon(t, digest.FromBytes(layer))
	for _, header := range g.headers("org/app") {
		if header != "" && header != "Bearer wrong" && header != "Bearer alice" {
			t.Errorf("upstream was asked with %q", header)
		}
	}
	// Now that it is held, the same holds; and upstream is not asked again for what it has said.
	for range 3 {
		for _, path := range paths[:3] {
			s.get(t, path).expectChallenge(t)
			s.get(t, path, "Authorization", "Bearer wrong").expectChallenge(t)
			s.get(t, path, "Authorization", "Bearer alice").expect(t, 200)
		}
	}
	if headers := g.headers("org/app"); len(headers) != 0 {
		t.Errorf("upstream was asked again: %q", headers)
	}
	s.get(t, blob, "Authorization", "Bearer mallory").expectChallenge(t)
	if headers := g.headers("org/app"); len(headers) != 1 {
		t.Errorf("a new client costs %d questions, want one", len(headers))
	}
}

// Clients that can't tell registries apart are asked only for what the configuration says is for a registry. What they
// send all the same goes nowhere and counts for nothing, also where it is right.
func TestPathFormIsNotAsked(t *testing.T) {
	s := newStack(t, options{registry: func(cfg *registry.Config) { cfg.RelayPathForm = nil }})
	layer := pattern(1000)
	s.remote.putImage("public/app", "v1", layer)
	d := s.remote.putImage("org/app", "v1", layer)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
	paths := []string{tagPath, "/v2/org/app/manifests/" + d.String(), blobPath("org/app", digest.FromBytes(layer)), "/v2/org/app/tags/list"}
	ask := func() {
		for _, path := range append(paths, "/v2/"+upstreamHost+tagPath[len("/v2"):]) {
			for _, header := range []string{"", "Bearer alice", "Basic YTpi"} {
				got := s.get(t, path, "Authorization", header)
				if got.expectError(t, 403, "DENIED"); got.header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s: challenge %q", path, got.header.Get("WWW-Authenticate"))
				}
				s.do(t, http.MethodHead, path, "Authorization", header).expect(t, 403, "WWW-Authenticate", "-")
			}
		}
	}
	ask()
	for _, header := range g.headers("org/app") {
		if header != "" {
			t.Errorf("upstream was sent %q", header)
		}
	}
	for _, path := range paths[:3] { // With ns it is as ever, and then held.
		s.get(t, path+"?ns="+upstreamHost).expectChallenge(t)
		s.get(t, path+"?ns="+upstreamHost, "Authorization", "Bearer alice").expect(t, 200)
	}
	s.heldSoon(t, digest.FromBytes(layer))
	ask()
	s.get(t, "/v2/public/app/manifests/v1", "Authorization", "Bearer alice").expect(t, 200)
	for _, header := range g.headers("public/app") {
		if header != "" {
			t.Errorf("upstream was sent %q", header)
		}
	}
}

// Upstream's yes counts for some minutes, and its no for some seconds.
func TestAnswersAge(t *testing.T) {
	s := newStack(t, options{})
	layer := pattern(1000)
	s.remote.putImage("org/app", "v1", layer)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app", "Bearer bob": "org/app"})
	blob := blobPath("org/app", digest.FromBytes(layer))
	s.get(t, blob, "Authorization", "Bearer alice").expect(t, 200)
	s.heldSoon(t, digest.FromBytes(layer))
	g.take("Bearer alice")
	s.later(5*time.Minute - 1)
	s.get(t, blob, "Authorization", "Bearer alice").expect(t, 200)
	s.later(1)
	s.get(t, blob, "Authorization", "Bearer alice").expectChallenge(t)
	s.get(t, blob, "Authorization", "Bearer bob").expect(t, 200)
	g.mu.Lock()
	g.tokens["Bearer alice"] = "org/app"
	g.mu.Unlock()
	s.later(30*time.Second - 1)
	s.get(t, blob, "Authorization", "Bearer alice").expectChallenge(t)
	s.later(1)
	s.get(t, blob, "Authorization", "Bearer alice").expect(t, 200)
}

// Credentials go where they were asked for: not to repositories that need none, and not to others.
func TestCredentialsGoNowhereElse(t *testing.T) {
	s := newStack(t, options{})
	layer := pattern(1000)
	s.remote.putImage("public/app", "v1", layer)
	s.remote.putImage("org/app", "v1", layer)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
	s.get(t, "/v2/public/app/manifests/v1", "Authorization", "Bearer alice").expect(t, 200)
	s.get(t, blobPath("public/app", digest.FromBytes(layer)), "Authorization", "Bearer alice").expect(t, 200)
	s.get(t, tagPath, "Authorization", "Bearer alice").expect(t, 200)
	s.get(t, "/v2/org/other/manifests/v1", "Authorization", "Bearer alice").expectChallenge(t)
	for _, header := range g.headers("public/app") {
		if header != "" {
			t.Errorf("a repository for everybody was asked with %q", header)
		}
	}
}

// What is for everybody needs nobody's credentials in another repository's name either; what is not has one name.
func TestSharedLayers(t *testing.T) {
	s := newStack(t, options{})
	base, secret := pattern(3000), pattern(2000)
	s.remote.putImage("public/base", "v1", base)
	s.remote.putImage("org/app", "v1", base, secret)
	s.remote.putImage("org/other", "v1", base)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app", "Bearer bob": "org/other"})
	for _, body := range [][]byte{base, secret} {
		s.get(t, blobPath("org/app", digest.FromBytes(body)), "Authorization", "Bearer alice").expect(t, 200)
		s.heldSoon(t, digest.FromBytes(body))
	}
	other := func(body []byte) got {
		s.get(t, "/v2/org/other/manifests/v1", "Authorization", "Bearer bob").expect(t, 200)
		return s.get(t, blobPath("org/other", digest.FromBytes(body)), "Authorization", "Bearer bob")
	}
	other(secret).expectError(t, 404, "BLOB_UNKNOWN")
	// It is held, but upstream has to give it in this name once, which proves that it has it.
	asked := s.remote.count("GET " + blobPath("org/other", digest.FromBytes(base)))
	for range 2 {
		if got := other(base).expect(t, 200); !bytes.Equal(got.body, base) {
			t.Error("it is something else")
		}
	}
	if n := s.remote.count("GET "+blobPath("org/other", digest.FromBytes(base))) - asked; n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	s.later(time.Minute)
	s.get(t, blobPath("public/base", digest.FromBytes(base))).expect(t, 200)
	g.headers("org/app")
}

// A registry that says that it has something, and does not, gets nothing served in its name.
func TestClaimsProveNothing(t *testing.T) {
	s := newStack(t, options{})
	secret := pattern(100_000)
	manifest := s.remote.putImage("org/app", "v1", secret)
	d := digest.FromBytes(secret)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
	s.get(t, blobPath("org/app", d), "Authorization", "Bearer alice").expect(t, 200)
	s.get(t, tagPath, "Authorization", "Bearer alice").expect(t, 200)
	s.heldSoon(t, d)
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "evil/") {
			return g.around(w, r)
		}
		object := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if object == "v1" {
			object = manifest.String()
		}
		w.Header().Set("Docker-Content-Digest", object)
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", fmt.Sprint(len(secret)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(make([]byte, len(secret)))
		}
		return true
	})
	for _, path := range []string{"manifests/v1", "manifests/" + manifest.String(), "blobs/" + d.String()} {
		for range 2 {
			got := s.get(t, "/v2/evil/app/"+path)
			if got.status == 200 && (got.err == nil || bytes.Contains(got.body, secret[1000:2000])) {
				t.Errorf("%s: %d bytes, error %v", path, len(got.body), got.err)
			}
		}
	}
	if s.book.Belongs(evil, d, false) || s.book.Belongs(evil, manifest, false) {
		t.Error("what it said is believed")
	}
}

// While upstream is down, nobody gets what needs credentials, and everybody what does not.
func TestUpstreamDown(t *testing.T) {
	s := newStack(t, options{impatient: true})
	public, secret := pattern(1000), pattern(2000)
	s.remote.putImage("public/app", "v1", public)
	s.remote.putImage("org/app", "v1", secret)
	newGuard(s, map[string]string{"Bearer alice": "org/app", "Bearer bob": "org/app"})
	paths := map[string][]byte{
		blobPath("public/app", digest.FromBytes(public)): public, blobPath("org/app", digest.FromBytes(secret)): secret,
	}
	for path, body := range paths {
		s.get(t, path, "Authorization", "Bearer alice").expect(t, 200)
		s.heldSoon(t, digest.FromBytes(body))
	}
	s.remote.Close()
	s.later(time.Minute)
	// Who showed a moment ago that it may read still may.
	s.get(t, blobPath("org/app", digest.FromBytes(secret)), "Authorization", "Bearer alice").expect(t, 200)
	s.get(t, blobPath("org/app", digest.FromBytes(secret)), "Authorization", "Bearer bob").expectError(t, 404, "BLOB_UNKNOWN")
	s.get(t, blobPath("org/app", digest.FromBytes(secret))).expectChallenge(t)
	s.later(6 * time.Hour)
	s.get(t, blobPath("org/app", digest.FromBytes(secret)), "Authorization", "Bearer alice").expectError(t, 404, "BLOB_UNKNOWN")
	s.get(t, blobPath("org/app", digest.FromBytes(secret))).expectError(t, 404, "BLOB_UNKNOWN")
	if got := s.get(t, blobPath("public/app", digest.FromBytes(public))).expect(t, 200); !bytes.Equal(got.body, public) {
		t.Error("it is something else")
	}
}

// In other modes than the default.
func TestModes(t *testing.T) {
	secret := pattern(2000)
	for mode, status := range map[access.Mode]int{access.Auto: 401, access.Relay: 401, access.Verify: 401, access.Own: 200} {
		s := newStack(t, options{mode: mode})
		d := s.remote.putBlob("org/app", secret)
		s.get(t, blobPath("org/app", d)).expect(t, 200)
		s.heldSoon(t, d)
		g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
		s.later(2 * time.Hour)
		s.get(t, blobPath("org/app", d)).expect(t, status)
		s.get(t, blobPath("org/app", d), "Authorization", "Bearer alice").expect(t, 200)
		if mode == access.Own && len(g.headers("org/app")) > 0 {
			t.Error("upstream was asked who may read")
		}
	}
}

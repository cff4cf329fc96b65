package upstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// tokens is a registry with token authentication, and its token service at /token of the same server.
type tokens struct {
	*server
	challenge string       // What WWW-Authenticate says; empty: the usual.
	expires   int          // expires_in of the tokens.
	needs     string       // "user:password" for tokens, if not empty.
	issued    atomic.Int64 // Counts tokens; the last one alone is valid.
	refuse    atomic.Int64 // How many further requests for tokens fail with refuseWith.
	with      int
	mu        sync.Mutex
	scopes    []string
	data      []byte
}

func serveTokens(t *testing.T, ts *tokens) *tokens {
	t.Helper()
	ts.server = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { ts.handle(w, r) })
	return ts
}

func (ts *tokens) handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		ts.token(w, r)
		return
	}
	if r.Header.Get("Authorization") != fmt.Sprintf("Bearer token-%d", ts.issued.Load()) || ts.issued.Load() == 0 {
		challenge := ts.challenge
		if challenge == "" {
			challenge = fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:%s:pull"`, ts.URL, repoPath)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	serveBlob(w, r, ts.data)
}

func (ts *tokens) token(w http.ResponseWriter, r *http.Request) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	_ = r.ParseForm()
	ts.scopes = append(ts.scopes, strings.Join(r.Form["scope"], " "))
	if ts.refuse.Add(-1) >= 0 {
		w.WriteHeader(ts.with)
		return
	}
	user, password, _ := r.BasicAuth()
	if r.Method == http.MethodPost {
		user, password = r.Form.Get("username"), r.Form.Get("password")
	}
	if ts.needs != "" && user+":"+password != ts.needs {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := fmt.Sprintf("token-%d", ts.issued.Add(1))
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": ts.expires})
}

// count gives how many requests the registry and its token service got.
func (ts *tokens) count() (registry, token int) {
	for _, r := range ts.seen() {
		if r.URL.Path == "/token" {
			token++
		} else {
			registry++
		}
	}
	return registry, token
}

func dockerConfig(t *testing.T, host, userPassword string) string {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(userPassword))
	return writeFile(t, "config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth))
}

func TestTokenIsFetchedOnceAndKept(t *testing.T) {
	ts := serveTokens(t, &tokens{expires: 300, data: randomBytes(100)})
	c := client(t, fast(at(ts.server)...))
	for range 3 {
		if got, _, err := readBlob(t, c, ts.data, 0, -1); err != nil || !bytes.Equal(got, ts.data) {
			t.Fatalf("got %d bytes, error %v", len(got), err)
		}
	}
	if registry, token := ts.count(); registry != 4 || token != 1 {
		t.Errorf("%d requests to the registry and %d for tokens, want 4 and 1", registry, token)
	}
	if ts.scopes[0] != "repository:team/app:pull" {
		t.Errorf("asked for scope %q", ts.scopes[0])
	}
}

// A token that is no longer good is replaced, without a failure that anybody would see. Tokens without an expiry
// are kept until they are refused.
func TestTokenIsRenewed(t *testing.T) {
	for _, expires := range []int{0, 300} {
		ts := serveTokens(t, &tokens{expires: expires, data: randomBytes(100)})
		c := client(t, fast(at(ts.server)...))
		for want := int64(1); want < 5; want += 2 {
			if _, _, err := readBlob(t, c, ts.data, 0, -1); err != nil {
				t.Fatal(err)
			}
			if ts.issued.Load() != want {
				t.Fatalf("%d tokens issued, want %d", ts.issued.Load(), want)
			}
			ts.issued.Add(1) // The registry forgets the token that it gave out.
		}
	}
}

// 401 in the middle of a blob.
func TestTokenExpiresMidBlob(t *testing.T) {
	ts := &tokens{expires: 300, data: randomBytes(size)}
	var broke atomic.Bool
	ts.server = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Header.Get("Authorization") != "" && broke.CompareAndSwap(false, true) {
			ts.issued.Add(1)
			breakAfter(1000, byReset)(w, r, ts.data)
			return
		}
		ts.handle(w, r)
	})
	got, _, err := readBlob(t, client(t, fast(at(ts.server)...)), ts.data, 0, -1)
	if err != nil || !bytes.Equal(got, ts.data) {
		t.Fatalf("got %d bytes, error %v", len(got), err)
	}
	if registry, token := ts.count(); registry != 4 || token != 2 {
		t.Errorf("%d requests to the registry and %d for tokens, want 4 and 2", registry, token)
	}
}

func TestTokenConcurrently(t *testing.T) {
	ts := serveTokens(t, &tokens{expires: 300, data: randomBytes(1000)})
	c := client(t, fast(at(ts.server)...))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, _, err := readBlob(t, c, ts.data, 0, -1); err != nil || !bytes.Equal(got, ts.data) {
				t.Errorf("got %d bytes, error %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if _, token := ts.count(); token != 1 {
		t.Errorf("%d requests for tokens, want 1", token)
	}
}

// A failure to get a token is not kept: the next request tries again.
func TestTokenServiceFails(t *testing.T) {
	tests := []struct {
		with int
		want error
	}{{500, ErrUnavailable}, {503, ErrUnavailable}, {429, ErrRateLimited}, {403, ErrDenied}, {401, ErrDenied}, {404, ErrDenied}}
	for _, tt := range tests {
		ts := serveTokens(t, &tokens{expires: 300, data: randomBytes(100), with: tt.with})
		ts.refuse.Store(1000)
		c := client(t, fast(at(ts.server)...))
		if _, _, err := readBlob(t, c, ts.data, 0, -1); !errors.Is(err, tt.want) {
			t.Errorf("%d: got error %v, want %v", tt.with, err, tt.want)
		}
		ts.refuse.Store(0)
		if _, _, err := readBlob(t, c, ts.data, 0, -1); err != nil {
			t.Errorf("%d: afterwards, got error %v", tt.with, err)
		}
	}
}

// Who waits for a token can leave; who waits for the same one still gets it.
func TestTokenWaiterLeaves(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	ts := &tokens{expires: 300, data: randomBytes(100)}
	ts.server = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Path == "/token" {
			close(asked)
			<-answer
		}
		ts.handle(w, r)
	})
	c := client(t, fast(at(ts.server)...))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := c.Blob(ctx, repo, digest.FromBytes(ts.data), 0, -1, Origin{})
		first <- err
	}()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
	close(answer)
	if _, _, err := readBlob(t, c, ts.data, 0, -1); err != nil {
		t.Error(err)
	}
}

func TestCredentials(t *testing.T) {
	data := randomBytes(100)
	basic := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		serveBlob(w, r, data)
	})
	ts := serveTokens(t, &tokens{needs: "ann:s3cret", data: data, expires: 60})
	for _, s := range []*server{basic, ts.server} {
		for _, tt := range []struct {
			config string
			want   error
		}{
			{dockerConfig(t, s.host(), "ann:s3cret"), nil},
			{dockerConfig(t, s.host(), "ann:wrong"), ErrDenied},
			{dockerConfig(t, "elsewhere.test", "ann:s3cret"), ErrDenied},
			{"", ErrDenied},
		} {
			cfg := fast(at(s)...)
			cfg.Credentials = tt.config
			_, _, err := readBlob(t, client(t, cfg), data, 0, -1)
			if !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error tells the password: %v", err)
			}
		}
	}
}

// A changed credentials file is used without a restart.
func TestCredentialsChange(t *testing.T) {
	ts := serveTokens(t, &tokens{needs: "ann:s3cret", data: randomBytes(100), expires: 60})
	cfg := fast(at(ts.server)...)
	cfg.Credentials = dockerConfig(t, ts.host(), "ann:old")
	c := client(t, cfg)
	if _, _, err := readBlob(t, c, ts.data, 0, -1); !errors.Is(err, ErrDenied) {
		t.Fatalf("got error %v", err)
	}
	renewed := dockerConfig(t, ts.host(), "ann:s3cret")
	if err := os.Rename(renewed, cfg.Credentials); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readBlob(t, c, ts.data, 0, -1); err != nil {
		t.Error(err)
	}
}

func TestNewReadsCredentials(t *testing.T) {
	for name, path := range map[string]string{
		"missing": filepath.Join(t.TempDir(), "none.json"), "broken": writeFile(t, "config.json", `{"auths":[]}`),
	} {
		if _, err := New(Config{Credentials: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s file: got error %v", name, err)
		}
	}
}

// A registry with TLS can't make us send its password over plain HTTP, nor its token service to somewhere else.
func TestCredentialsStayWhereTheyBelong(t *testing.T) {
	steal := func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = w.Write([]byte(`{"token":"x"}`)) }
	plain, secure := serve(t, steal), newServer(steal)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	var realm string
	registry := newServer(func(w http.ResponseWriter, r *http.Request, _ int) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/away"):
			http.Redirect(w, r, secure.URL+"/token", http.StatusTemporaryRedirect)
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	registry.StartTLS()
	t.Cleanup(registry.Close)
	endpoint := Endpoint{URL: registry.URL, CAFile: caFile(t, registry)}
	for _, realm = range []string{plain.URL + "/token", registry.URL + "/away"} {
		cfg := fast(endpoint)
		cfg.Credentials = dockerConfig(t, registry.host(), "ann:s3cret")
		if _, _, err := readBlob(t, client(t, cfg), nil, 0, -1); !errors.Is(err, ErrDenied) {
			t.Errorf("realm %s: got error %v", realm, err)
		}
		if n := len(plain.seen()) + len(secure.seen()); n != 0 {
			t.Errorf("realm %s: %d requests where none should be", realm, n)
		}
	}
}

func TestChallengeWithoutAnAnswer(t *testing.T) {
	for _, challenge := range []string{"", "Negotiate", "Bearer", `Bearer realm="::"`, `Bearer realm="/token"`, "Digest realm=x", "\x7f"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if challenge != "" {
				w.Header().Set("WWW-Authenticate", challenge)
			}
			w.WriteHeader(http.StatusUnauthorized)
		}))
		c := client(t, fast(Endpoint{URL: s.URL}))
		_, err := c.Manifest(t.Context(), reference.Reference{Repository: repo, Tag: "v1"}, Origin{})
		if !errors.Is(err, ErrDenied) && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%q: got error %v", challenge, err)
		}
		s.Close()
	}
}

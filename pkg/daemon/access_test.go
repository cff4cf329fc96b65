package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/opencontainers/go-digest"
)

const basicRealm = `Basic realm="registry of the test"`

// guardedRemote serves one blob to two users.
func guardedRemote(t *testing.T, blob string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if password != "s3cret" || user != "node" && user != "tenant" {
			w.Header().Set("WWW-Authenticate", basicRealm)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(blob))
	}))
	t.Cleanup(s.Close)
	return s
}

// TestAccessModes has a daemon with credentials of its own, good ones or bad ones, in every mode.
func TestAccessModes(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	blob := strings.Repeat("private", 1000)
	remote := guardedRemote(t, blob)
	for _, test := range []struct {
		mode, rule       string
		good             bool
		nobody, tenant   int
		afterwards       int // What nobody in particular gets of what is held then.
		challengesNobody bool
	}{
		{mode: config.AccessAuto, good: true, nobody: 200, tenant: 200, afterwards: 200},
		{mode: config.AccessAuto, nobody: 401, tenant: 200, afterwards: 401, challengesNobody: true},
		{mode: config.AccessRelay, good: true, nobody: 401, tenant: 200, afterwards: 401, challengesNobody: true},
		{mode: config.AccessVerify, good: true, nobody: 401, tenant: 200, afterwards: 401, challengesNobody: true},
		{mode: config.AccessOwn, good: true, nobody: 200, tenant: 200, afterwards: 200},
		{mode: config.AccessOwn, nobody: 404, tenant: 404, afterwards: 404},
		{mode: config.AccessOwn, rule: config.AccessRelay, good: true, nobody: 401, tenant: 200, afterwards: 401, challengesNobody: true},
		{mode: config.AccessRelay, rule: config.AccessOwn, good: true, nobody: 200, tenant: 200, afterwards: 200},
	} {
		t.Run(fmt.Sprintf("%s, rule %s, good %v", test.mode, test.rule, test.good), func(t *testing.T) {
			cfg := testConfig(t)
			entry := config.DefaultRegistry()
			entry.Match, entry.Endpoints = "registry.example.com", []config.Endpoint{config.EndpointAt(remote.URL)}
			cfg.Registries = []config.Registry{entry}
			cfg.Access.Mode = test.mode
			if test.rule != "" {
				cfg.Access.Rules = []config.AccessRule{{Match: "quay.io/*", Mode: "auto"}, {Match: "*/org/app", Mode: test.rule}}
			}
			secret := t.TempDir()
			password := map[bool]string{true: "s3cret", false: "old"}[test.good]
			text := fmt.Sprintf(`{"auths":{%q:{"username":"node","password":%q}}}`, strings.TrimPrefix(remote.URL, "http://"), password)
			if err := os.WriteFile(filepath.Join(secret, ".dockerconfigjson"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg.Credentials.DockerConfig = secret
			d, stop := start(t, cfg)
			url := "http://" + d.Addrs()[0].String() + "/v2/org/app/blobs/" + digest.FromString(blob).String() + "?ns=registry.example.com"
			ask := func(user string, want int) http.Header {
				t.Helper()
				resp := getAs(t, url, user)
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body) // Its length is what counts.
				if resp.StatusCode != want || want == 200 && string(body) != blob {
					t.Errorf("%q got %d, %d bytes; want %d", user, resp.StatusCode, len(body), want)
				}
				return resp.Header
			}
			if got := ask("", test.nobody).Get("WWW-Authenticate") == basicRealm; got != test.challengesNobody {
				t.Errorf("challenged: %v", got)
			}
			ask("tenant", test.tenant)
			ask("", test.afterwards)
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// getAs asks with a user's password, or with none for nobody. The caller closes the body.
func getAs(t *testing.T, url, user string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "s3cret")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

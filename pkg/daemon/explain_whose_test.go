package daemon_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
)

// door is a registry that lets nobody in, and notes who tried.
type door struct {
	*httptest.Server
	mu  sync.Mutex
	who []string
}

func newDoor(t *testing.T) *door {
	d := &door{}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, ok := r.BasicAuth()
		if !ok {
			user = "nobody"
		}
		d.mu.Lock()
		d.who = append(d.who, user)
		d.mu.Unlock()
		w.Header().Set("WWW-Authenticate", basicRealm)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(d.Close)
	return d
}

// tried tells who did since the last call, each once. Asking without credentials first is how challenges are had.
func (d *door) tried() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	who := d.who
	d.who = nil
	slices.Sort(who)
	who = slices.Compact(who)
	return slices.DeleteFunc(who, func(name string) bool { return name == "nobody" })
}

// TestExplainWhose has a cache before a registry, both of which the node has credentials for, and a client with its
// own: who comes to which of them is what was explained.
func TestExplainWhose(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	for _, mode := range []string{config.AccessAuto, config.AccessRelay, config.AccessVerify, config.AccessOwn} {
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, own %t", mode, own), func(t *testing.T) {
				before, registry := newDoor(t), newDoor(t)
				cfg := rulesOf(t, fmt.Sprintf("registries: [{match: '*', endpoints: [{url: %q}, {url: %q}]}]\n", before.URL, registry.URL))
				cfg.Access.Mode = mode
				if own {
					auth := `{"username":"node","password":"s3cret"}`
					text := fmt.Sprintf(`{"auths":{%q:%s,%q:%s}}`, before.Listener.Addr(), auth, registry.Listener.Addr(), auth)
					cfg.Credentials.DockerConfig = filepath.Join(t.TempDir(), "config.json")
					if err := os.WriteFile(cfg.Credentials.DockerConfig, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				p, err := policy.New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				ref, err := reference.Parse("registry.example.com/org/app:v1")
				if err != nil {
					t.Fatal(err)
				}
				plan := p.Explain(ref, policy.Surroundings{Own: func(repo reference.Repository, server string) string {
					return upstream.Whose(t.Context(), cfg.Credentials.DockerConfig, server, repo.Path)
				}})
				said := map[string]string{}
				for _, s := range plan.Steps {
					if s.Who == policy.Upstream {
						said[strings.TrimSuffix(s.URL, "/v2/org/app/manifests/v1")] = s.Credentials
					}
				}
				d, stop := start(t, cfg)
				for _, user := range []string{"", "client"} {
					askAs(t, d.Addrs()[0].String(), user)
				}
				for _, door := range []*door{before, registry} {
					var want []string
					if strings.Contains(said[door.URL], "client's own") {
						want = append(want, "client")
					}
					if strings.Contains(said[door.URL], "those of node") {
						want = append(want, "node")
					}
					if got := door.tried(); !slices.Equal(got, want) {
						t.Errorf("explained: %q; tried: %q", said[door.URL], got)
					}
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func askAs(t *testing.T, mirror, user string) {
	t.Helper()
	resp := getAs(t, "http://"+mirror+"/v2/org/app/manifests/v1?ns=registry.example.com", user)
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Errorf("%q got in", user)
	}
}

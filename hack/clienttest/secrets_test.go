package clienttest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

const evilName = "evil.example.com"

// evil is a registry, and a token service, that keeps what it is sent and asks everybody for a password.
type evil struct {
	*httptest.Server
	scheme string // Of its challenges.

	mu    sync.Mutex
	asked int
	got   []string // Whatever may hold a password.
}

func newEvil(t *testing.T, scheme string) *evil {
	e := &evil{scheme: scheme}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *evil) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	_ = r.ParseForm()
	for _, secret := range []string{r.Header.Get("Authorization"), r.Form.Get("password"), r.Form.Get("refresh_token")} {
		if secret != "" && secret != "Bearer evil" { // Its own token is nobody's secret.
			e.got = append(e.got, r.URL.Path+": "+secret)
		}
	}
	if r.URL.Path == "/token" {
		_, _ = fmt.Fprint(w, `{"token":"evil","access_token":"evil"}`)
		return
	}
	challenge := `Basic realm="evil"`
	if e.scheme == "Bearer" {
		challenge = fmt.Sprintf(`Bearer realm="%s/token",service="registry.example.com"`, e.URL)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
}

// pathClients are clients that answer challenges, or send passwords before anybody asks. Each has one password for the
// mirror's host, for it knows no other, and says why it got nothing.
var pathClients = map[string]func(t *testing.T, host, name, user, password string) error{
	"crane": func(t *testing.T, host, name, user, password string) error {
		t.Setenv("DOCKER_CONFIG", t.TempDir())
		login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		file := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, login)
		if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		tr := remote.DefaultTransport.(*http.Transport).Clone()
		defer tr.CloseIdleConnections()
		_, err := remote.Get(parse(t, host+"/"+name), remote.WithTransport(tr), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithContext(t.Context()))
		return err
	},
	"oras": func(t *testing.T, host, name, user, password string) error {
		repo, err := orasremote.NewRepository(host + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		client, done := plainClient()
		defer done()
		repo.PlainHTTP = true
		repo.Client = &auth.Client{Client: client, Credential: auth.StaticCredential(host, auth.Credential{Username: user, Password: password})}
		_, err = repo.Resolve(t.Context(), repo.Reference.Reference)
		return err
	},
	"containerd": func(t *testing.T, host, name, user, password string) error {
		client, done := plainClient()
		defer done()
		authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(func(string) (string, string, error) { return user, password, nil }))
		resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
			docker.WithClient(client), docker.WithAuthorizer(authorizer), docker.WithPlainHTTP(docker.MatchAllHosts),
		)})
		_, _, err := resolver.Resolve(t.Context(), host+"/"+name)
		return err
	},
	"curl": func(t *testing.T, host, name, user, password string) error {
		repo, tag, _ := strings.Cut(name, ":")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/"+repo+"/manifests/"+tag, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, password)
		client, done := plainClient()
		defer done()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return fmt.Errorf("status %d, challenge %q", resp.StatusCode, resp.Header.Values("WWW-Authenticate"))
	},
}

func plainClient() (client *http.Client, done func()) {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	return &http.Client{Transport: tr}, tr.CloseIdleConnections
}

// What a client has for one registry is never sent to another that asks for it through the mirror. In path form both
// are the mirror's host to the client.
func TestPasswordsOfOneRegistry(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			evil := newEvil(t, scheme)
			n := newNodeWith(t, registrytest.Config{Auth: registrytest.AuthBasic}, func(cfg *config.Config) {
				r := config.DefaultRegistry()
				r.Match, r.Endpoints = evilName, []config.Endpoint{config.EndpointAt(evil.URL)}
				cfg.Registries = append(cfg.Registries, r)
				cfg.Credentials.DockerConfig = "" // The client's password is what counts.
				cfg.Mirror.DefaultRegistry = evilName
				cfg.Access.RelayPathForm = []string{registryName}
			})
			user, password := n.upstream.Credentials()
			for client, pull := range pathClients {
				t.Run(client, func(t *testing.T) {
					for _, name := range []string{evilName + "/org/app:v1", "org/app:v1"} {
						if err := pull(t, n.host, name, user, password); err == nil {
							t.Errorf("%s was got from a registry that has nothing", name)
						}
					}
					if got := evil.secrets(); len(got) > 0 {
						t.Errorf("the registry was sent %q", got)
					}
					if client == "curl" || client == "crane" { // They send it before they are asked, as the one registry wants it.
						if err := pull(t, n.host, registryName+"/"+repository+":"+tag, user, password); err != nil {
							t.Errorf("from the registry that is named: %v", err)
						}
					}
				})
			}
			if evil.requests() == 0 {
				t.Error("the registry was never asked")
			}
		})
	}
}

// secrets gives what was sent since the last call.
func (e *evil) secrets() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.got
	e.got = nil
	return got
}

func (e *evil) requests() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

// Where a registry is named, a client that answers challenges is asked, and gets it.
func TestPathFormIsRelayed(t *testing.T) {
	for kind, cfg := range map[string]registrytest.Config{"basic": upstreams["basic"], "token": upstreams["token"]} {
		t.Run(kind, func(t *testing.T) {
			n := newNodeWith(t, cfg, func(cfg *config.Config) {
				cfg.Credentials.DockerConfig = ""
				cfg.Access.RelayPathForm = []string{registryName + "/org/*"}
			})
			user, password := n.upstream.Credentials()
			clients := []string{"containerd"}
			if kind == "basic" {
				clients = append(clients, "oras") // It asks no token service on this machine.
			}
			for _, client := range clients {
				if err := pathClients[client](t, n.host, registryName+"/"+repository+":"+tag, user, password); err != nil {
					t.Errorf("%s: %v", client, err)
				}
			}
			err := pathClients["curl"](t, n.host, registryName+"/other/app:v1", user, password)
			if want := `status 403, challenge []`; err == nil || err.Error() != want {
				t.Errorf("beside the pattern: %v, want %s", err, want)
			}
		})
	}
}

package fleettest

import (
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

// What nodes themselves have: credentials for the claimant's registry, and an authorization for a receiver of events
// that nobody can reach, so that all events stay on disk. locked is a repository that takes the former, and says no.
const (
	ownUser, ownPassword = "node", "planted-password-of-the-node"
	eventsSecret         = "planted-secret-of-events"
	locked               = "locked"
)

// plant gives a node its secrets, and has it say as much as it can.
func plant(t *testing.T, n *fleet.Node, cfg *config.Config) {
	t.Helper()
	dir := filepath.Dir(n.ConfigFile())
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	claims := netip.AddrPortFrom(upstreamOf(cfg), claimant).String()
	auth := base64.StdEncoding.EncodeToString([]byte(ownUser + ":" + ownPassword))
	cfg.Credentials.DockerConfig = write("docker.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, claims, auth))
	receiver := config.DefaultEventEndpoint()
	receiver.URL = "http://" + netip.AddrPortFrom(upstreamOf(cfg), 5009).String() + "/?key=" + eventsSecret
	receiver.AuthorizationFile = write("events.token", "Bearer "+eventsSecret+"\n")
	cfg.Events.Endpoints = []config.EventEndpoint{receiver}
	cfg.Log.Level = "debug" // Where a secret would show most.
}

// repeatCredentials refuses with the credentials that came, for the log and for whoever reads along.
func repeatCredentials(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="locked"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"not %s with %s, that is %s"}]}`, user, password, r.Header.Get("Authorization"))
}

// planted are all secrets of the fleet, by whose they are.
func (ten *tenancy) planted() map[string]string {
	secrets := map[string]string{"events": eventsSecret}
	for i, token := range ten.Upstream.Given() {
		secrets[fmt.Sprint("token ", i)] = token[strings.LastIndexByte(token, '.')+1:] // Its signature.
	}
	for user, password := range map[string]string{tenantA: passwordA, tenantB: passwordB, ownUser: ownPassword} {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.SetBasicAuth(user, password)
		secrets[user+"'s header"] = strings.TrimPrefix(req.Header.Get("Authorization"), "Basic ")
		secrets[user+"'s password"] = password
	}
	return secrets
}

// noSecrets looks for passwords and tokens wherever Kioo writes or says something.
func noSecrets(t *testing.T, ten *tenancy) {
	for _, n := range ten.Nodes {
		header := ten.right(t, tenantA, passwordA, repoA)
		claims := netip.AddrPortFrom(ten.Upstream.Addr, claimant).String()
		places := map[string]string{"metrics": text(t, n, "/metrics"), "readiness": text(t, n, "/readyz")}
		type request struct{ registry, path, header string }
		asks := map[string]request{
			"missing": {ten.Upstream.Host(), repoA + "/manifests/none", header},
			"own":     {claims, locked + "/app/manifests/v1", ""},
			"theirs":  {claims, locked + "/app/manifests/v1", ten.wrong(t)["wrong password"]},
		}
		if ten.auth == registrytest.AuthToken { // With Basic, who has any password may read everything.
			asks["refusal"] = request{ten.Upstream.Host(), repoB + "/manifests/v1", header}
		}
		for what, ask := range asks {
			code, said := askMirror(t, n, http.MethodGet, ask.registry, ask.path, ask.header)
			if code == http.StatusOK || len(said) < 50 {
				t.Errorf("%s: %s: %d\n%s", n.Name, what, code, said)
			}
			places["answer, "+what] = said
		}
		for what, args := range map[string][]string{
			"verify":   {"verify"},
			"explain":  {"explain", ten.Upstream.Image(repoA + ":v1")},
			"own":      {"explain", "-o", "json", claims + "/" + locked + "/app:v1"},
			"check":    {"check"},
			"prefetch": {"prefetch", "--this-node", ten.Upstream.Image(repoA + ":v1")},
			"refresh":  {"refresh", ten.Upstream.Image(repoA + ":v1")},
		} {
			// Some of them end badly, which they say as well. The error has the output.
			out, err := n.Output(t.Context(), n.Program, append(args[:1:1], append([]string{"--config", n.ConfigFile()}, args[1:]...)...)...)
			places["kioo "+args[0]+", "+what] = out + fmt.Sprint(err)
		}
		for path, content := range filesBelow(t, n.DataDir()) {
			places[path] = content
		}
		places["log"] = n.Log()
		for place, has := range map[string]string{
			"log": repoA, "metrics": "kioo_", "kioo verify, verify": "blobs", "kioo explain, explain": repoA, "kioo explain, own": "those of " + ownUser,
			"kioo prefetch, prefetch": repoA, "answer, own": locked, filepath.Join(n.DataDir(), "events.db"): repoA,
		} {
			if !strings.Contains(places[place], has) {
				t.Errorf("%s: %s has nothing of %s: it is looked at in vain: %.500s", n.Name, place, has, places[place])
			}
		}
		for place, content := range places {
			for whose, secret := range ten.planted() {
				if strings.Contains(content, secret) {
					t.Errorf("%s: %s is in %s", n.Name, whose, place)
				}
			}
		}
	}
}

// text is what a node's status server says.
func text(t *testing.T, n *fleet.Node, path string) string {
	t.Helper()
	resp, err := n.Get(t.Context(), "http://"+fleet.MetricsAddr+path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// filesBelow reads everything in a directory.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // It was evicted meanwhile.
		}
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("%s is empty", dir)
	}
	return files
}

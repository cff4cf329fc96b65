package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
	"github.com/kioo-dev/kioo/hack/fleet"
)

// TestAttackLNames: a client writes the name of a registry otherwise than the operator's rules do. It wants what the
// rules deny; by no name must it get that.
func TestAttackLNames(t *testing.T) { defended(t, otherNames) }

func otherNames(t *testing.T, w *world) (reached []string) {
	// What is denied is there, and a cache for everything gives it: only the rule keeps it away.
	img := w.push(t, w.public, deniedPath, "v1", 5_000)
	names := map[string][]string{
		"docker.io": {
			"docker.io", "index.docker.io", "registry-1.docker.io", "docker.io:443", "index.docker.io:443", "registry-1.docker.io:443",
			"DOCKER.IO", "Registry-1.Docker.IO", "docker.io.", "docker.io.:443", "registry.hub.docker.com",
			"docker.io:0443", "docker.io:00000443", "docker\u3002io", "\uff44ocker.io", "docker.i\u00ado", "registry-1.docker.io.", "docker.io:",
		},
		deniedRegistry: {
			deniedRegistry, deniedRegistry + ":443", strings.ToUpper(deniedRegistry), deniedRegistry + ":0443", deniedRegistry + ".",
			deniedRegistry + ".:443", "registry\u3002example\uff0ecom", "\uff52egistry.example.com", "REGISTRY.example.com.:443", deniedRegistry + ":443:443",
			"xn--registry-.example.com", deniedRegistry + "..", deniedRegistry + ":+443", deniedRegistry + ":443.", "[" + deniedRegistry + "]",
		},
	}
	for denied, all := range names {
		for _, name := range all {
			for _, object := range []string{"manifests/v1", img.objects[0].path, img.objects[2].path} {
				for form, r := range map[string]request{
					"ns":   {registry: name, path: img.repo + "/" + object},
					"path": {path: name + "/" + img.repo + "/" + object},
				} {
					if a := ask(t, w.Nodes[0], r); a.status/100 == 2 {
						reached = append(reached, fmt.Sprintf("%s of %s, which is denied, as %s by %s", lastOf(object), denied, name, form))
					}
				}
			}
		}
	}
	return reached
}

// TestAttackMPassword: a registry that a client names in the path challenges it. The client knows one password for
// the mirror's host, which is for another registry, and answers as it should. The attacker wants that password.
func TestAttackMPassword(t *testing.T) { defended(t, passwordLost) }

func passwordLost(t *testing.T, w *world) (reached []string) {
	for name, host := range map[string]string{"private": w.evil.Host(), "public": w.evil.PublicHost()} {
		for how, rules := range map[string][]evilregistry.Rule{
			"Basic":             {evilregistry.Basic("")},
			"Bearer":            {{Object: "/token", Body: []byte(`{"token":"x"}`)}, evilregistry.Bearer("", "http://"+host+"/token")},
			"Bearer of another": {{Object: "/token", Body: []byte(`{"token":"x"}`)}, evilregistry.Bearer("", "http://"+net.JoinHostPort(evilAgain, fmt.Sprint(evilPort))+"/token")},
			"two challenges": {{Anonymous: true, Status: http.StatusUnauthorized, Header: map[string]string{
				"WWW-Authenticate": `Negotiate, Basic realm="evil", Bearer realm="http://` + host + `/token"`,
			}}},
			"a 403 that asks":  {{Anonymous: true, Status: http.StatusForbidden, Header: map[string]string{"WWW-Authenticate": `Basic realm="evil"`}}},
			"a 404 that asks":  {{Anonymous: true, Status: http.StatusNotFound, Header: map[string]string{"WWW-Authenticate": `Basic realm="evil"`}}},
			"a proxy's":        {{Anonymous: true, Status: http.StatusProxyAuthRequired, Header: map[string]string{"Proxy-Authenticate": `Basic realm="evil"`}}},
			"a way to another": {evilregistry.Redirect("", "http://"+net.JoinHostPort(evilAgain, fmt.Sprint(evilPort))+"/v2/x/manifests/v1")},
		} {
			w.evil.rules(t, rules)
			for _, path := range []string{"manifests/v1", "blobs/" + digest.FromString(how).String(), "tags/list"} {
				w.pathClient(t, w.Nodes[0], request{path: host + "/" + w.fresh("asked") + "/" + path})
			}
			// Some clients do not wait to be asked a second time.
			ask(t, w.Nodes[0], request{path: host + "/" + w.fresh("asked") + "/manifests/v1", authorization: basicAuth(tenantA, passwordA)})
			for _, seen := range w.evil.seen(t) {
				if seen.Password == passwordA {
					reached = append(reached, fmt.Sprintf("the password, by %s from the registry at a %s address: %s %s", how, name, seen.Method, seen.URI))
				}
			}
		}
	}
	return reached
}

func basicAuth(user, password string) string {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.SetBasicAuth(user, password)
	return req.Header.Get("Authorization")
}

var realm = regexp.MustCompile(`^Bearer realm="([^"]+)"`)

// pathClient asks as crane, oras and others do that keep one password for each host: tenant A's is for this mirror.
func (w *world) pathClient(t *testing.T, n *fleet.Node, r request) {
	t.Helper()
	a := ask(t, n, r)
	challenge := a.header.Get("Www-Authenticate")
	if challenge == "" {
		return
	}
	switch m := realm.FindStringSubmatch(challenge); {
	case strings.HasPrefix(challenge, "Basic "):
		r.authorization = basicAuth(tenantA, passwordA)
		ask(t, n, r)
	case m != nil:
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m[1]+"?scope="+url.QueryEscape("repository:app:pull"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(tenantA, passwordA)
		if resp, err := n.Client().Do(req); err == nil {
			resp.Body.Close()
		}
	}
}

// TestAttackNHost: a page in a browser on the node has its own name lead to 127.0.0.1. It wants what the mirror
// gives; a mirror that is asked by a name that is not its own must give nothing.
func TestAttackNHost(t *testing.T) { defended(t, foreignHost) }

func foreignHost(t *testing.T, w *world) (reached []string) {
	img := w.push(t, w.public, w.fresh("rebound"), "v1", 5_000)
	w.fetch(t, w.Nodes[0], img, "")
	for _, host := range []string{
		"attacker.example.com", "attacker.example.com:28500", "127.0.0.1.attacker.example.com:28500", "localhost.attacker.example.com",
		"10.77.254.1:28500", "127.0.0.1.nip.io:28500", w.Nodes[0].Addr.String(), "[fd00::1]:28500", "[::ffff:10.77.254.1]:28500", "0.0.0.0:28500",
		"[::]:28500", "localhost.:28500.attacker.example.com", "localhost@attacker.example.com", "2130706433.example.com", "LOCALHOST.example.com",
	} {
		for _, o := range img.objects {
			if a := ask(t, w.Nodes[0], request{registry: img.registry, path: img.repo + "/" + o.path, host: host}); a.is(o.digest) {
				reached = append(reached, fmt.Sprintf("%s, asked as %s", o.path, host))
			}
		}
	}
	// What a page's browser adds, or what a proxy would say, changes nothing.
	for name, header := range map[string]map[string]string{
		"X-Forwarded-Host": {"X-Forwarded-Host": "127.0.0.1:28500"}, "Forwarded": {"Forwarded": "host=127.0.0.1"},
		"X-Host": {"X-Host": "localhost"}, "X-Original-Host": {"X-Original-Host": "localhost"},
	} {
		r := request{registry: img.registry, path: img.repo + "/" + img.objects[0].path, host: "attacker.example.com", header: header}
		if a := ask(t, w.Nodes[0], r); a.is(img.objects[0].digest) {
			reached = append(reached, "a manifest, asked as attacker.example.com with "+name)
		}
	}
	for name, header := range map[string]map[string]string{
		"another origin": {"Origin": "https://attacker.example.com"}, "no origin": {"Origin": "null"},
		"another port's page": {"Origin": "http://127.0.0.1.nip.io:28500"}, "another site": {"Sec-Fetch-Site": "cross-site"},
		"another port": {"Sec-Fetch-Site": "same-site"},
	} {
		if a := ask(t, w.Nodes[0], request{registry: img.registry, path: img.repo + "/" + img.objects[0].path, header: header}); a.is(img.objects[0].digest) {
			reached = append(reached, "a manifest, by the page of "+name)
		}
	}
	reached = append(reached, rawHosts(t, w.Nodes[0], img)...)
	// Its own names must go on.
	for _, host := range []string{"127.0.0.1:28500", "localhost:28500", "localhost", "[::1]:28500"} {
		if a := ask(t, w.Nodes[0], request{registry: img.registry, path: img.repo + "/" + img.objects[0].path, host: host}); a.status != http.StatusOK {
			t.Errorf("asked as %s: %v", host, a)
		}
	}
	return reached
}

// rawHosts asks with targets that say another host than the header does, which some servers believe.
func rawHosts(t *testing.T, n *fleet.Node, img *image) (reached []string) {
	t.Helper()
	path := "/v2/" + img.repo + "/" + img.objects[0].path + "?ns=" + img.registry
	for _, head := range []string{
		"GET http://attacker.example.com" + path + " HTTP/1.1\r\nHost: 127.0.0.1:28500\r\n",
		"GET " + path + " HTTP/1.1\r\nHost: attacker.example.com\r\nHost: 127.0.0.1:28500\r\n",
		"GET " + path + " HTTP/1.0\r\n",
		"GET " + path + " HTTP/1.1\r\nHost: \r\n",
		"GET " + path + " HTTP/1.1\r\nHost: attacker.example.com#@127.0.0.1:28500\r\n",
	} {
		conn, err := n.Dial(t.Context(), "tcp", fleet.MirrorAddr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(askTime)) // A connection that can't have one fails below.
		_, werr := io.WriteString(conn, head+"Connection: close\r\n\r\n")
		body, rerr := io.ReadAll(conn)
		if err := errors.Join(werr, rerr, conn.Close()); err != nil {
			t.Fatal(err)
		}
		if status, _, _ := strings.Cut(string(body), "\r\n"); strings.Contains(status, " 200 ") {
			reached = append(reached, fmt.Sprintf("a manifest by %.80q: %s", head, status))
		}
	}
	return reached
}

// TestAttackNControl: a process on the node, and a pod, ask for what changes something: that all nodes forget a tag,
// or fetch an image. Over TCP nothing may be changed, on no port and by no method.
func TestAttackNControl(t *testing.T) { defended(t, controlled) }

func controlled(t *testing.T, w *world) (reached []string) {
	img := w.push(t, w.public, w.fresh("forced"), "v1", 5_000)
	n := w.Nodes[0]
	at := map[*fleet.Place][]string{
		n.Place:     {fleet.MirrorAddr, fleet.MetricsAddr, "127.0.0.1:28503", "127.0.0.1:28505"},
		w.pod.Place: {net.JoinHostPort(n.Addr.String(), "28500"), net.JoinHostPort(n.Addr.String(), "28504"), net.JoinHostPort(n.Addr.String(), "28505")},
	}
	for place, addresses := range at {
		for _, address := range addresses {
			for _, path := range []string{"/kioo/v1/refresh", "/kioo/v1/prefetch", "/kioo/v1/purge", "/-/reload"} {
				for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodGet} {
					status := send(t, place, method, "http://"+address+path+"?image="+url.QueryEscape(img.name()))
					if status/100 == 2 {
						reached = append(reached, fmt.Sprintf("%s %s at %s from %s: %d", method, path, address, place.Name, status))
					}
				}
			}
		}
	}
	if len(w.public.ManifestRequests("")) > 0 && said(w.public, img.repo, http.StatusOK) {
		reached = append(reached, "an image that nobody pulled was fetched")
	}
	return reached
}

// send sends a request and gives the status; 0 if nobody answers.
func send(t *testing.T, place *fleet.Place, method, u string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := place.Client().Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // What it says is not the point.
	return resp.StatusCode
}

// inside are addresses that only a node reaches: clouds have their metadata there, and keys to everything.
func inside() []string {
	return []string{"169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200", "169.254.170.2", "169.254.170.23",
		"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe"}
}

// TestAttackORedirect: a registry redirects a node, or names a token service or a page of a list, to where only the
// node gets: its cloud's own addresses. It wants what is there, or that the node does something there; nobody must be
// asked.
func TestAttackORedirect(t *testing.T) { defended(t, redirected) }

const baitPort, bait = "9000", "what only the node may see"

func redirected(t *testing.T, w *world) (reached []string) {
	n := w.Nodes[0]
	var (
		mu      sync.Mutex
		touched = map[string]bool{}
	)
	for _, address := range inside() {
		mask := "/32"
		if strings.Contains(address, ":") {
			mask = "/128"
		}
		if _, err := n.Output(t.Context(), "ip", "addr", "add", address+mask, "dev", "lo", "nodad"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := n.Output(context.Background(), "ip", "addr", "del", address+mask, "dev", "lo"); err != nil {
				t.Error(err)
			}
		})
		l, err := n.Listen(net.JoinHostPort(address, baitPort))
		if err != nil {
			t.Fatal(err)
		}
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.UserAgent(), "kioo/") {
				mu.Lock()
				touched[address] = true
				mu.Unlock()
			}
			rw.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(rw, `{"token":"`+bait+`"}`)
		})}}
		server.Start()
		t.Cleanup(server.Close)
	}
	var (
		rules []evilregistry.Rule
		all   []attempt
	)
	for i, address := range inside() {
		target := "http://" + net.JoinHostPort(address, baitPort) + "/latest"
		repo := func(how string) string { return fmt.Sprintf("%s/at-%d", how, i) }
		if addr := netip.MustParseAddr(address); addr.Is4() { // By another name, and by a way that leads there in two steps.
			mapped := "http://" + net.JoinHostPort(netip.AddrFrom16(addr.As16()).String(), baitPort) + "/latest"
			rules = append(rules, evilregistry.Redirect(repo("mapped"), mapped), evilregistry.Bearer(repo("mapped-realm"), mapped))
		}
		twice := "http://" + net.JoinHostPort(evilAgain, fmt.Sprint(evilPort)) + "/v2/" + repo("redirect") + "/manifests/v1"
		rules = append(rules, evilregistry.Redirect(repo("twice"), twice), evilregistry.Redirect(repo("redirect"), target), evilregistry.Bearer(repo("realm"), target), evilregistry.Rule{
			Repository: repo("link"), Object: "tags/list", Body: []byte(`{"tags":["a"]}`), Header: map[string]string{"Link": "<" + target + `>; rel="next"`},
		})
		for _, host := range []string{w.evil.Host(), w.evil.PublicHost()} {
			for _, how := range []string{"redirect", "realm", "link", "twice", "mapped", "mapped-realm"} {
				for _, object := range []string{"manifests/v1", "blobs/" + digest.FromString(host+address+how).String(), "tags/list"} {
					for _, authorization := range []string{"", "Bearer x"} {
						all = append(all, attempt{n, request{registry: host, path: repo(how) + "/" + object, authorization: authorization}, func(a answer) string {
							if bytes.Contains(a.body, []byte(bait)) {
								return fmt.Sprintf("what is at %s, by %s", address, how)
							}
							return ""
						}})
					}
				}
			}
		}
	}
	w.evil.rules(t, rules)
	reached = tryAll(t, all)
	mu.Lock()
	defer mu.Unlock()
	for address := range touched {
		reached = append(reached, "the node asks "+address)
	}
	return reached
}

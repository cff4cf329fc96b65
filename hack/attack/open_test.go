package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// An attack does what its actor does, and gives what he reached.
type attack func(t *testing.T, w *world) (reached []string)

// shown is how much of what an attacker reached is told.
const shown = 12

// defended runs an attack that must reach nothing.
func defended(t *testing.T, a attack) {
	t.Helper()
	reached := a(t, theWorld(t))
	for i, what := range reached {
		if i == shown {
			t.Errorf("and so on, %d in all", len(reached))
			break
		}
		t.Errorf("the attacker reached: %s", what)
	}
}

// TestAttackAUnknownRoute: a pod asks for referrers, a route that the registry does not know and answers with 404
// before it asks who is there. It wants a private image, on a node that never had it, and must not get a byte of it.
func TestAttackAUnknownRoute(t *testing.T) { defended(t, unknownRoute) }

func unknownRoute(t *testing.T, w *world) (reached []string) {
	img := w.secret(t, 300_000)
	w.pullAnnounced(t, w.Nodes[0], img, tenantA, passwordA)
	// What comes after the unknown route takes a moment, as it does over the internet.
	slow := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/sha256-") }
	breaks(t, w.private, registrytest.Only(slow, registrytest.Delay(2*time.Second)))
	for _, n := range w.Nodes {
		w.private.Forget()
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		asking.Go(func() {
			_, _ = try(ctx, n, request{registry: img.registry, path: img.repo + "/referrers/" + img.objects[0].digest.String()})
		})
		if n == w.Nodes[1] {
			eventually(t, settleTime, "the registry has said 404", func() bool { return said(w.private, "/referrers/", http.StatusNotFound) })
		}
		for _, o := range img.objects {
			if a := ask(t, n, request{registry: img.registry, path: img.repo + "/" + o.path}); a.is(o.digest) {
				reached = append(reached, fmt.Sprintf("%s on %s, after a 404 for an unknown route", o.path, n.Name))
			}
		}
		cancel()
		asking.Wait()
	}
	return reached
}

// said tells whether a registry has answered so.
func said(s *side, path string, status int) bool {
	for _, r := range s.Requests() {
		if strings.Contains(r.URI, path) && r.Status == status {
			return true
		}
	}
	return false
}

// frontEnds are what stands before a registry that is down, and answers everything with something that is no
// registry's.
func frontEnds() map[string]registrytest.Hook {
	page := func(status int, header map[string]string, body string) registrytest.Hook {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for name, value := range header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body) // Who asked may have left.
			})
		}
	}
	html := map[string]string{"Content-Type": "text/html"}
	return map[string]registrytest.Hook{
		"404":                       page(http.StatusNotFound, nil, "default backend - 404"),
		"404 as a page":             page(http.StatusNotFound, html, "<html>gone</html>"),
		"404 as OCI":                page(http.StatusNotFound, map[string]string{"Content-Type": "application/json"}, `{"errors":[{"code":"NAME_UNKNOWN"}]}`),
		"410":                       page(http.StatusGone, nil, ""),
		"a page for all":            page(http.StatusOK, html, "<html>we are back soon</html>"),
		"an empty 200":              page(http.StatusOK, nil, ""),
		"204":                       page(http.StatusNoContent, nil, ""),
		"a JSON object":             page(http.StatusOK, map[string]string{"Content-Type": "application/json"}, "{}"),
		"a redirect":                page(http.StatusFound, map[string]string{"Location": "https://status.example.com/"}, ""),
		"403":                       page(http.StatusForbidden, html, "<html>blocked</html>"),
		"no manifest as one":        page(http.StatusOK, map[string]string{"Content-Type": ocispec.MediaTypeImageManifest}, "{}"),
		"a type alone":              page(http.StatusOK, map[string]string{"Content-Type": ocispec.MediaTypeImageManifest, "Etag": `"x"`}, ""),
		"206":                       page(http.StatusPartialContent, html, "<html>"),
		"300":                       page(http.StatusMultipleChoices, html, "<html>"),
		"409":                       page(http.StatusConflict, nil, ""),
		"500":                       page(http.StatusInternalServerError, html, "<html>oops</html>"),
		"502":                       page(http.StatusBadGateway, html, "<html>bad gateway</html>"),
		"503":                       page(http.StatusServiceUnavailable, map[string]string{"Retry-After": "1"}, ""),
		"429":                       page(http.StatusTooManyRequests, nil, ""),
		"a path that stays":         away("http://" + net.JoinHostPort(evilPublic, fmt.Sprint(evilPort))),
		"storage":                   away("http://" + net.JoinHostPort(evilPublic, fmt.Sprint(evilPort)) + "/bucket/x?"),
		"only HEAD":                 registrytest.Only(func(r *http.Request) bool { return r.Method != http.MethodHead }, page(http.StatusNotFound, nil, "")),
		"a 404 after the challenge": registrytest.Only(func(r *http.Request) bool { return r.Header.Get("Authorization") != "" }, page(http.StatusNotFound, nil, "")),
		"broken off": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		},
	}
}

// away leads everybody who asks for something to the same path below an URL.
func away(base string) registrytest.Hook {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", base+r.URL.Path)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
	}
}

// TestAttackAFrontEnd: the registry is down, and what stands before it answers everything in its place. A pod wants a
// private image that some node holds, and must not get a byte of it, on no node, by no front end.
func TestAttackAFrontEnd(t *testing.T) { defended(t, frontEnd) }

func frontEnd(t *testing.T, w *world) (reached []string) {
	// Each stands before a repository of its own, so that all of them are tried at once.
	before, images := map[string]registrytest.Hook{}, map[string]*image{}
	// Where it leads elsewhere, everything is there, for everybody, and is a page.
	w.evil.rules(t, []evilregistry.Rule{{Body: []byte("<html>we are back soon</html>"), Header: map[string]string{"Content-Type": "text/html"}}})
	for name, hook := range frontEnds() {
		img := w.secret(t, 10_000)
		w.fetch(t, w.Nodes[0], img, w.bearer(t, tenantA, passwordA, img.repo))
		before[img.repo], images[name] = hook, img
	}
	breaks(t, w.private, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			for repo, hook := range before {
				if strings.HasPrefix(r.URL.Path, "/v2/"+repo+"/") {
					hook(next).ServeHTTP(rw, r)
					return
				}
			}
			next.ServeHTTP(rw, r)
		})
	})
	for range 2 { // The first question opens, and the second is answered.
		var all []attempt
		for name, img := range images {
			for _, a := range w.thefts(img, img.registry, img.repo, w.outsiders(t, img)) {
				all = append(all, attempt{a.node, a.request, func(got answer) string {
					if what := a.reached(got); what != "" {
						return name + ": " + what
					}
					return ""
				}})
			}
			for _, n := range w.Nodes {
				for _, path := range []string{"tags/list", "referrers/" + img.objects[0].digest.String(), "manifests/none"} {
					all = append(all, attempt{n, request{registry: img.registry, path: img.repo + "/" + path}, func(answer) string { return "" }})
				}
			}
		}
		reached = append(reached, tryAll(t, all)...)
	}
	slices.Sort(reached)
	return reached
}

// TestAttackAOutage: the registry does not answer at all. Nobody gets what is known to be private meanwhile, on the
// node that holds it or on the other; and where the operator chose verify, nobody gets what was never found to be
// open.
func TestAttackAOutage(t *testing.T) { defended(t, outage) }

func outage(t *testing.T, w *world) (reached []string) {
	img := w.secret(t, 100_000)
	who := w.outsiders(t, img)
	w.pullAnnounced(t, w.Nodes[0], img, tenantA, passwordA)
	w.stolen(t, img, nobody()) // So that both nodes know that it is private.
	defer w.privateDown(t)()
	return w.stolen(t, img, who)
}

// TestAttackIOpenAge: a member says of a private repository that everybody may read it. A pod on an honest node wants
// the image's layers, which honest members have, and must not get them.
func TestAttackIOpenAge(t *testing.T) { defended(t, openAge) }

func openAge(t *testing.T, w *world) (reached []string) {
	img := w.secret(t, 300_000)
	w.pullAnnounced(t, w.Nodes[0], img, tenantA, passwordA)
	// It has the manifest, for every member may have that, and says the rest with it.
	manifest, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	w.member.lies(t, evilmember.Lies{
		Content: []evilmember.Content{{Digest: img.objects[0].digest, MediaType: img.objects[0].mediaType, Body: manifest}},
		Tags: []evilmember.Tag{{
			Name: img.name(), MediaType: img.objects[0].mediaType, Digest: img.objects[0].digest, Size: img.objects[0].size,
		}},
		Header:    map[string]string{"Kioo-Open-Age": "0", "Kioo-Open": "true"},
		Announces: []map[string]any{{"key": img.objects[0].digest.String(), "size": img.objects[0].size, "complete": true}},
		Relay:     true,
	})
	eventually(t, settleTime, "the trackers have heard it", func() bool { return w.member.heard(t) })
	for _, first := range []string{img.objects[0].path, "manifests/" + img.tag, img.objects[2].path} {
		ask(t, w.Nodes[1], request{registry: img.registry, path: img.repo + "/" + first})
		for _, o := range img.layers() {
			if a := ask(t, w.Nodes[1], request{registry: img.registry, path: img.repo + "/" + o.path}); a.is(o.digest) {
				reached = append(reached, fmt.Sprintf("%s on node-2, on the word of a member, after %s", o.path, first))
			}
		}
	}
	return reached
}

// TestAttackIVerified is TestAttackIOpenAge where the operator chose verify: nobody's word counts but the registry's.
func TestAttackIVerified(t *testing.T) { defended(t, openAgeVerified) }

func openAgeVerified(t *testing.T, w *world) (reached []string) {
	img := w.push(t, w.public, "verified/"+w.fresh("app"), "v1", 300_000)
	w.fetch(t, w.Nodes[0], img, "")
	w.member.lies(t, evilmember.Lies{Header: map[string]string{"Kioo-Open-Age": "0"}, Relay: true, Content: []evilmember.Content{
		{Digest: img.objects[2].digest, Body: []byte("x")}, {Digest: img.objects[0].digest, Body: []byte("x")},
	}})
	// From now on it is private, and node-2 never asked before.
	breaks(t, w.public, registrytest.Only(func(r *http.Request) bool { return strings.Contains(r.URL.Path, img.repo) }, challenge))
	for range 3 {
		for _, o := range img.objects {
			if a := ask(t, w.Nodes[1], request{registry: img.registry, path: img.repo + "/" + o.path}); a.is(o.digest) {
				reached = append(reached, o.path+" on node-2, whose registry says 401")
			}
		}
	}
	return reached
}

// challenge asks everybody for credentials.
func challenge(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="closed"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
}

// TestAttackJExpired: a repository that was open is private now. A pod wants what it had, in its own name and in that
// of an open repository, after the time for which the operator lets an answer count, and must not get it.
func TestAttackJExpired(t *testing.T) { defended(t, expired) }

func expired(t *testing.T, w *world) (reached []string) {
	was := w.push(t, w.public, w.fresh("once-open"), "v1", 200_000)
	open := w.push(t, w.public, w.fresh("open"), "v1", 20_000)
	for _, n := range w.Nodes {
		w.fetch(t, n, open, "")
	}
	w.fetch(t, w.Nodes[0], was, "")
	// Closed, and nobody asks for it by its own name, so that no refusal is heard; its content is asked for elsewhere.
	closed := time.Now()
	breaks(t, w.public, registrytest.Only(func(r *http.Request) bool { return strings.Contains(r.URL.Path, was.repo+"/") }, challenge))
	eventually(t, settleTime, "it was open too long ago", func() bool { return time.Since(closed) > openFor+time.Second })
	for _, n := range w.Nodes {
		for _, o := range was.objects {
			if a := ask(t, n, request{registry: open.registry, path: open.repo + "/" + o.path}); a.is(o.digest) {
				reached = append(reached, fmt.Sprintf("%s on %s, in the name of an open repository", o.path, n.Name))
			}
		}
	}
	return append(reached, w.stolen(t, was, nobody())...)
}

// TestAttackJCircle: as TestAttackJExpired, and two nodes keep telling each other that it is open, each time by what
// the other said.
func TestAttackJCircle(t *testing.T) { defended(t, circle) }

func circle(t *testing.T, w *world) (reached []string) {
	// Each node holds half of what there is, and heard at another time than the other that everybody may read it.
	const each = 30
	repo := w.fresh("circle")
	img := w.push(t, w.public, repo, "base", 4_000)
	held := map[int][]digest.Digest{}
	for i := range 2 * each {
		body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []any{}, "annotations": map[string]string{"n": fmt.Sprint(repo, i)}})
		if err != nil {
			t.Fatal(err)
		}
		dgst := digest.FromBytes(body)
		held[i%2] = append(held[i%2], dgst)
		w.put(t, w.public, repo, dgst, ocispec.MediaTypeImageIndex, body)
	}
	for i, n := range w.Nodes {
		for _, dgst := range held[i] {
			if a := ask(t, n, request{registry: img.registry, path: repo + "/manifests/" + dgst.String()}); !a.is(dgst) {
				t.Fatalf("%s: %v", n.Name, a)
			}
		}
		w.waitKnown(t, n, held[i]...)
		if began := time.Now(); i == 0 {
			eventually(t, settleTime, "half of the time has passed", func() bool { return time.Since(began) > openFor/2 })
		}
	}
	closed := time.Now()
	breaks(t, w.public, registrytest.Only(func(r *http.Request) bool { return strings.Contains(r.URL.Path, repo+"/") }, challenge))
	for i := range each {
		for at, n := range w.Nodes {
			dgst := held[1-at][i]
			a := ask(t, n, request{registry: img.registry, path: repo + "/manifests/" + dgst.String()})
			if late := time.Since(closed); a.is(dgst) && late > openFor+time.Second {
				reached = append(reached, fmt.Sprintf("%s on %s, %v after it was closed", dgst, n.Name, late))
			}
		}
		due := closed.Add(time.Duration(i+1) * 2 * openFor / each)
		eventually(t, settleTime, "it is time for the next", func() bool { return time.Now().After(due) })
	}
	return reached
}

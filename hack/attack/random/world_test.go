package random_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/opencontainers/go-digest"
)

// The clients: nobody in particular, two tenants, and who runs the second registry.
var clients = []string{"", "a", "b", "mallory"}

// member is who serves the peer API.
type member struct{ name, address string }

// world is what one sequence plays in.
type world struct {
	random     *rand.Rand
	at         time.Time
	creds      *peer.Credentials
	registries map[string]*origin
	victim     *origin
	evil       *origin
	nodes      []*node
	liar       *member // A member that was taken over; nil where there is none.
	stopLiar   func()
	lies       lies
	offered    map[digest.Digest]bool // What that member has given to whoever asked: it is the attacker's to give.
	public     map[digest.Digest]bool // What was given while everybody might have it.
	images     int                    // How many were pushed, so that each is another one.
	log        []string               // What happened, for who reads why somebody has what he should not.
	leak       string
	given      int // How many answers were judged.
	ctx        context.Context
}

// lies are what the member that was taken over says.
type lies struct {
	target digest.Digest // Of all tags.
	type_  string
	size   int
	body   []byte // Of all content; nil is none.
}

func newWorld(seed uint64) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 11)), at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), offered: map[digest.Digest]bool{}, public: map[digest.Digest]bool{}}
	var err error
	w.creds, err = peer.NewCredentials([]peer.Key{key}, time.Now)
	w.check(err)
	w.victim, w.evil = newOrigin("registry.example.com"), newOrigin("evil.example.net")
	w.registries = map[string]*origin{w.victim.host: w.victim, w.evil.host: w.evil}
	base := w.bytes("base")
	for _, repo := range []*repository{
		w.victim.add("tenant-a/app", false, "a"), w.victim.add("tenant-b/app", false, "b"), w.victim.add("public/app", true),
	} {
		w.push(repo, base)
	}
	w.push(w.evil.add("mallory/app", true))
	w.push(w.evil.add("mallory/own", false, "mallory"))
	w.victim.redirects = w.random.IntN(2) == 0
	w.victim.slow, w.evil.slow = w.random.IntN(2) == 0, w.random.IntN(2) == 0
	mode := []access.Mode{access.Auto, access.Auto, access.Relay, access.Verify}[w.random.IntN(4)]
	for i := range 2 {
		w.nodes = append(w.nodes, newNode(w, fmt.Sprint("node-", i+1), mode))
	}
	if w.random.IntN(2) == 0 {
		w.liar = &member{name: "liar"}
		w.liar.address, w.stopLiar = w.listen(http.HandlerFunc(w.lie))
	}
	w.note("mode %d, redirects %t, a member that lies %t", mode, w.victim.redirects, w.liar != nil)
	return w
}

// key is the cluster's.
var key = peer.NewKey()

func (w *world) close() {
	for _, n := range w.nodes {
		n.close()
	}
	if w.stopLiar != nil {
		w.stopLiar()
	}
	w.victim.close()
	w.evil.close()
}

func (w *world) now() time.Time { return w.at }

func (w *world) check(err error) {
	if err != nil {
		panic(err)
	}
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprint(time.Now().Format("05.000 "))+fmt.Sprintf(format, args...))
}

func (w *world) members() (all []member) {
	for _, n := range w.nodes {
		all = append(all, member{n.name, n.address})
	}
	if w.liar != nil {
		all = append(all, *w.liar)
	}
	return all
}

// bytes makes content that nobody else has.
func (w *world) bytes(what string) []byte {
	w.images++
	return []byte(strings.Repeat(fmt.Sprintf("%s %d ", what, w.images), 20))
}

// push adds an image of a layer of its own, over those that are given, under all tags.
func (w *world) push(repo *repository, layers ...[]byte) {
	layers = append(layers, w.bytes("layer of "+repo.name.String()))
	for _, tag := range tags {
		w.moves(repo, tag)
		repo.push(tag, layers...)
	}
}

// moves notes that a tag will mean something else from now on.
func (w *world) moves(repo *repository, tag string) {
	if repo.meant[tag] == nil {
		repo.meant[tag] = map[digest.Digest]time.Time{}
	}
	repo.meant[tag][repo.tags[tag]] = w.at
}

// tags are those of all repositories; the nodes' rules tell them apart.
var tags = []string{"v1", "first", "only"}

// pick gives one of some, by chance.
func pick[T any](w *world, from []T) T { return from[w.random.IntN(len(from))] }

func (w *world) repos() (all []*repository) {
	for _, path := range []string{"tenant-a/app", "tenant-b/app", "public/app"} {
		all = append(all, w.victim.repos[path])
	}
	return append(all, w.evil.repos["mallory/app"], w.evil.repos["mallory/own"])
}

// digests are all that there is, in an order that is always the same.
func (w *world) digests() (all []digest.Digest) {
	for _, repo := range w.repos() {
		all = append(all, sorted(repo.ever)...)
	}
	return all
}

// lie answers as the member that was taken over.
func (w *world) lie(rw http.ResponseWriter, r *http.Request) {
	l := w.lies
	rw.Header().Set("Kioo-Open-Age", "0")
	rw.Header().Set("Age", "0")
	rw.Header().Set("Kioo-Age-Ms", "0")
	switch {
	case strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodHead && l.target != "":
		rw.Header().Set("Docker-Content-Digest", l.target.String())
		rw.Header().Set("Content-Type", l.type_)
		rw.Header().Set("Content-Length", fmt.Sprint(l.size))
	case l.body != nil:
		rw.Header().Set("Content-Type", l.type_)
		rw.Header().Set("Content-Length", fmt.Sprint(len(l.body)))
		_, _ = rw.Write(l.body)
	default:
		http.NotFound(rw, r)
	}
}

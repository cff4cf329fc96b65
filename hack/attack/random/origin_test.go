package random_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mood is what a registry does instead of answering.
type mood int

const (
	well      mood = iota
	gone           // It closes connections.
	failing        // 502.
	blank404       // A front end's 404 to everything.
	page           // A front end's page with status 200.
	emptyJSON      // A front end's JSON with status 200.
	moods
)

// silent tells whether nothing that a registry says then is an answer.
func (m mood) silent() bool { return m == gone || m == failing }

// object is something that a repository has.
type object struct {
	body      []byte
	mediaType string // Empty for blobs.
}

// repository is one of a registry's. Times are the sequence's.
type repository struct {
	name    reference.Repository
	public  bool
	clients map[string]bool // Who may read it besides.
	objects map[digest.Digest]object
	tags    map[string]digest.Digest
	meant   map[string]map[digest.Digest]time.Time // What tags meant before, and until when.
	// ever are the bytes that it has ever given to those who may read it; closed and revoked say since when somebody may
	// not any more.
	ever    map[digest.Digest]bool
	closed  time.Time
	revoked map[string]time.Time
	// refused are the nodes that heard that not everybody may read it, since everybody could.
	refused map[string]bool
}

// origin is a registry: a server with repositories, which answers for lists and referrers before it looks at who asks,
// as some do.
type origin struct {
	*httptest.Server
	host    string
	storage *httptest.Server // Knows nobody, and gives what it is asked for.

	mu        sync.Mutex
	repos     map[string]*repository
	mood      mood
	moody     time.Time // When it was not well last.
	silent    time.Time // When it could not be asked last.
	redirects bool      // Blobs are given by the storage.
	slow      bool      // Blobs take a moment.
	liar      bool      // It says 200 to whatever HEAD it gets.
}

func newOrigin(host string) *origin {
	r := &origin{host: host, repos: map[string]*repository{}}
	r.Server = httptest.NewServer(r)
	r.storage = httptest.NewServer(http.HandlerFunc(r.store))
	return r
}

func (r *origin) close() {
	r.Server.Close()
	r.storage.Close()
}

func (r *origin) add(path string, public bool, clients ...string) *repository {
	repo := &repository{
		name: reference.Repository{Registry: r.host, Path: path}, public: public, clients: map[string]bool{},
		objects: map[digest.Digest]object{}, tags: map[string]digest.Digest{}, meant: map[string]map[digest.Digest]time.Time{}, ever: map[digest.Digest]bool{},
		revoked: map[string]time.Time{}, refused: map[string]bool{},
	}
	for _, c := range clients {
		repo.clients[c] = true
	}
	r.repos[path] = repo
	return repo
}

// put adds an object to a repository.
func (p *repository) put(body []byte, mediaType string) ocispec.Descriptor {
	dgst := digest.FromBytes(body)
	p.objects[dgst] = object{body, mediaType}
	p.ever[dgst] = true
	return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(body))}
}

// push adds an image with layers, and a tag for it.
func (p *repository) push(tag string, layers ...[]byte) {
	config := p.put(fmt.Appendf(nil, `{"of":%q,"tag":%q,"layers":%d}`, p.name, tag, len(layers)), "")
	config.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config}
	m.SchemaVersion = 2
	for _, layer := range layers {
		d := p.put(layer, "")
		d.MediaType = ocispec.MediaTypeImageLayerGzip
		m.Layers = append(m.Layers, d)
	}
	p.pushManifest(tag, m, ocispec.MediaTypeImageManifest)
}

func (p *repository) pushManifest(tag string, m any, mediaType string) {
	body, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	p.tags[tag] = p.put(body, mediaType).Digest
}

// may tells whether a client may read it now; the empty one is nobody in particular.
func (p *repository) may(client string) bool { return p.public || client != "" && p.clients[client] }

// sorted gives its digests in an order that is always the same.
func sorted[V any](m map[digest.Digest]V) []digest.Digest { return slices.Sorted(maps.Keys(m)) }

// ServeHTTP implements http.Handler.
func (r *origin) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.mood {
	case gone:
		panic(http.ErrAbortHandler)
	case failing:
		w.WriteHeader(http.StatusBadGateway)
		return
	case blank404:
		w.WriteHeader(http.StatusNotFound)
		return
	case page:
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>we are working on it</html>"))
		return
	case emptyJSON:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
		return
	}
	parts := strings.Split(strings.TrimPrefix(req.URL.Path, "/v2/"), "/")
	if len(parts) < 4 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	repo, kind, what := r.repos[strings.Join(parts[:2], "/")], parts[2], parts[3]
	if repo == nil || kind == "tags" || kind == "referrers" {
		w.WriteHeader(http.StatusNotFound) // Before it looks at who asks.
		return
	}
	client := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !repo.may(client) {
		if client == "" {
			repo.refused[req.Header.Get("User-Agent")] = true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="`+r.host+`"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if repo.public {
		delete(repo.refused, req.Header.Get("User-Agent"))
	}
	dgst := digest.Digest(what)
	if kind == "manifests" && dgst.Validate() != nil {
		dgst = repo.tags[what]
	}
	r.give(w, req, repo, kind, dgst)
}

func (r *origin) give(w http.ResponseWriter, req *http.Request, repo *repository, kind string, dgst digest.Digest) {
	o, ok := repo.objects[dgst]
	switch {
	case r.liar && req.Method == http.MethodHead && dgst != "":
		w.Header().Set("Docker-Content-Digest", dgst.String())
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Content-Length", "100")
		return
	case !ok || kind == "manifests" && o.mediaType == "":
		w.WriteHeader(http.StatusNotFound)
		return
	case kind == "blobs" && r.redirects:
		http.Redirect(w, req, r.storage.URL+"/"+dgst.String(), http.StatusTemporaryRedirect)
		return
	}
	w.Header().Set("Docker-Content-Digest", dgst.String())
	if o.mediaType != "" {
		w.Header().Set("Content-Type", o.mediaType)
	} else if r.slow {
		time.Sleep(2 * time.Millisecond) // So that others come while it is on its way.
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(o.body)))
	_, _ = w.Write(o.body)
}

// store gives whatever any repository has, as signed URLs do.
func (r *origin) store(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, repo := range r.repos {
		if o, ok := repo.objects[digest.Digest(strings.TrimPrefix(req.URL.Path, "/"))]; ok {
			w.Header().Set("Content-Length", fmt.Sprint(len(o.body)))
			_, _ = w.Write(o.body)
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

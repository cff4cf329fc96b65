package random_test

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// store is a cache in memory.
type store struct {
	mu   sync.Mutex
	held map[digest.Digest]content.Bytes
	tags map[string]content.Tag
}

func newStore() *store {
	return &store{held: map[digest.Digest]content.Bytes{}, tags: map[string]content.Tag{}}
}

func (s *store) has(dgst digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.held[dgst]
	return ok
}

func (s *store) evict(dgst digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, dgst)
}

// Open implements content.Store.
func (s *store) Open(_ context.Context, dgst digest.Digest) (content.Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.held[dgst]; ok {
		return b, nil
	}
	return nil, content.ErrNotFound
}

// Put implements mirror.Keeper.
func (s *store) Put(_ context.Context, _ content.Owner, desc ocispec.Descriptor, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[desc.Digest] = content.Bytes{Body: body, Type: desc.MediaType}
	return nil
}

// Tag implements content.TagStore.
func (s *store) Tag(_ context.Context, ref reference.Reference) (content.Tag, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tag, ok := s.tags[ref.String()]; ok {
		return tag, nil
	}
	return content.Tag{}, content.ErrNotFound
}

// SetTag implements mirror.Keeper.
func (s *store) SetTag(_ context.Context, ref reference.Reference, tag content.Tag) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[ref.String()] = tag
	return nil
}

// DeleteTag implements mirror.Keeper.
func (s *store) DeleteTag(_ context.Context, ref reference.Reference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tags, ref.String())
	return nil
}

// Touch implements mirror.Keeper.
func (s *store) Touch(digest.Digest) {}

// create makes a spool whose file has no name.
func (s *store) create(dgst digest.Digest) (flight.Spool, error) {
	f, err := os.CreateTemp("", "kioo-random-")
	if err != nil {
		return nil, err
	}
	return &spool{File: f, store: s, dgst: dgst}, nil
}

type spool struct {
	*os.File
	store *store
	dgst  digest.Digest
}

// Reader implements flight.Spool.
func (s *spool) Reader() (*os.File, error) { return os.Open(s.Name()) }

// Commit implements flight.Spool.
func (s *spool) Commit(ctx context.Context, mediaType string) error {
	body, err := os.ReadFile(s.Name())
	if err != nil {
		return err
	}
	return s.store.Put(ctx, "", ocispec.Descriptor{MediaType: mediaType, Digest: s.dgst}, body)
}

// Discard implements flight.Spool.
func (s *spool) Discard() error {
	_ = os.Remove(s.Name())
	return s.Close()
}

// runtime is what a node's container runtime has: it says in whose names, as containerd does.
type runtime struct {
	now func() time.Time

	mu     sync.Mutex
	held   map[digest.Digest]content.Bytes
	since  map[digest.Digest]time.Time
	labels map[digest.Digest]map[reference.Repository]bool
	images map[string]content.Claim // By name.
	loaded map[digest.Digest]bool
}

func newRuntime(now func() time.Time) *runtime {
	return &runtime{
		now: now, held: map[digest.Digest]content.Bytes{}, since: map[digest.Digest]time.Time{},
		labels: map[digest.Digest]map[reference.Repository]bool{}, images: map[string]content.Claim{}, loaded: map[digest.Digest]bool{},
	}
}

// pull takes an image from a repository, past the mirror, as a client that may: what is there already is not fetched,
// whoever it is from, and gets the repository's label all the same. Manifests of other platforms are not looked at.
func (r *runtime) pull(repo *repository, tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[repo.name.String()+":"+tag] = content.Claim{Repository: repo.name, Target: repo.tags[tag]}
	for next := []digest.Digest{repo.tags[tag]}; len(next) > 0; next = next[1:] {
		dgst := next[0]
		if _, ok := r.held[dgst]; !ok {
			o, ok := repo.objects[dgst]
			if !ok {
				return // The pull fails, and leaves what it has brought.
			}
			r.held[dgst], r.since[dgst] = content.Bytes{Body: o.body, Type: o.mediaType}, r.now()
		}
		if r.labels[dgst] == nil {
			r.labels[dgst] = map[reference.Repository]bool{}
		}
		r.labels[dgst][repo.name] = true
		children, err := content.Children(r.held[dgst].Body)
		if err != nil {
			continue // It is no manifest.
		}
		for _, c := range children {
			if c.Platform == nil || c.Platform.OS == "linux" {
				next = append(next, c.Digest)
			}
		}
	}
}

// load takes content of a repository as a builder leaves it: nothing says in whose name.
func (r *runtime) load(repo *repository, dgsts []digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, dgst := range dgsts {
		if _, ok := r.held[dgst]; ok || repo.objects[dgst].body == nil {
			continue
		}
		r.held[dgst], r.since[dgst] = content.Bytes{Body: repo.objects[dgst].body, Type: repo.objects[dgst].mediaType}, r.now()
		r.loaded[dgst] = true
	}
}

// unload takes away what was loaded.
func (r *runtime) unload() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for dgst := range r.loaded {
		delete(r.held, dgst)
	}
	clear(r.loaded)
}

// remove takes an image's record away. Its content stays as long as it stays.
func (r *runtime) remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.images, name)
}

// Open implements content.Store.
func (r *runtime) Open(_ context.Context, dgst digest.Digest) (content.Blob, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.held[dgst]; ok {
		return b, nil
	}
	return nil, content.ErrNotFound
}

// Tag implements content.TagStore.
func (r *runtime) Tag(_ context.Context, ref reference.Reference) (content.Tag, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.images[ref.String()]
	if b, held := r.held[c.Target]; ok && held {
		return content.Tag{
			Target:    ocispec.Descriptor{MediaType: b.Type, Digest: c.Target, Size: b.Size()},
			Confirmed: r.since[c.Target],
		}, nil
	}
	return content.Tag{}, content.ErrNotFound
}

// Claims implements mirror.Catalogue.
func (r *runtime) Claims() (claims []content.Claim, complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.images {
		claims = append(claims, c)
	}
	return claims, true
}

// Labels implements mirror.Catalogue.
func (r *runtime) Labels(_ context.Context, each func(host, path string, dgst digest.Digest)) error {
	type label struct {
		repo reference.Repository
		dgst digest.Digest
	}
	var all []label
	r.mu.Lock()
	for dgst, repos := range r.labels {
		for repo := range repos {
			all = append(all, label{repo, dgst})
		}
	}
	r.mu.Unlock()
	for _, l := range all {
		each(l.repo.Registry, l.repo.Path, l.dgst)
	}
	return nil
}

// Held implements mirror.Catalogue.
func (r *runtime) Held(dgst digest.Digest) (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.held[dgst]
	return r.since[dgst], ok
}

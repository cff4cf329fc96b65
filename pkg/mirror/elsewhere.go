package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/foreign"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Foreign is the kind of sources that the urls of foreign layers are.
const Foreign = "foreign"

// maxURLs bounds how many of a layer's urls are remembered.
const maxURLs = 8

// Elsewhere is an error that says where a client gets a foreign layer.
type Elsewhere struct {
	Ref reference.Reference
	URL string
}

func (e *Elsewhere) Error() string {
	return fmt.Sprintf("%s is a foreign layer, to be had elsewhere", e.Ref)
}

// elsewhere knows which layers are foreign, from the manifests that passed by. It is safe for concurrent use.
type elsewhere struct {
	policy policy.Foreign
	// layers are by repository, so that nobody's manifest says where another's layers come from.
	layers *lru.Cache[part, foreign.Layer]

	mu     sync.Mutex // Guards reading a licence together with writing it.
	rights *lru.Cache[part, rights]
}

// part is content as a repository's manifests speak of it. What they say holds there alone, for anybody can write one.
type part struct {
	repo reference.Repository
	dgst digest.Digest
}

// rights say what manifests call a layer. One that some manifest has as an ordinary layer is one, or anybody could take
// a layer out of circulation by calling it foreign.
type rights struct{ restricted, free bool }

func newElsewhere(p policy.Foreign) (*elsewhere, error) {
	layers, err := lru.New[part, foreign.Layer](maxRemembered)
	if err != nil {
		return nil, fmt.Errorf("make memory of foreign layers: %w", err)
	}
	known, err := lru.New[part, rights](maxRemembered)
	if err != nil {
		return nil, fmt.Errorf("make memory of licences: %w", err)
	}
	return &elsewhere{policy: p, layers: layers, rights: known}, nil
}

// learn notes the foreign layers of a manifest. Most manifests have none, which shows without parsing them.
func (e *elsewhere) learn(repo reference.Repository, body []byte) {
	hasForeign := bytes.Contains(body, []byte(`"urls"`)) || bytes.Contains(body, []byte(".foreign.")) ||
		bytes.Contains(body, []byte(".nondistributable."))
	if !hasForeign && e.rights.Len() == 0 {
		return
	}
	children, err := content.Children(body)
	if err != nil {
		return // Who needs it will say so.
	}
	for _, c := range children[:min(len(children), maxRemembered/4)] {
		e.note(repo, c)
		if len(c.URLs) > 0 {
			urls := c.URLs[:min(len(c.URLs), maxURLs)]
			e.layers.Add(part{repo, c.Digest}, foreign.Layer{Digest: c.Digest, Size: c.Size, MediaType: c.MediaType, URLs: urls})
		}
	}
}

// Recall looks at manifests that are held, for layers that may not be passed on. It is for the start: later, manifests
// are seen when they pass by.
func (m *Mirror) Recall(ctx context.Context, held []digest.Digest) {
	if m.cfg.Policy.Foreign().Share {
		return
	}
	for _, dgst := range held {
		a, err := m.local.manifest(ctx, dgst)
		if err != nil {
			continue // It is no manifest, or it has gone.
		}
		if body, err := content.ReadAll(ctx, a.Blob, content.MaxManifestBytes); err == nil {
			m.elsewhere.learn(reference.Repository{}, body)
		}
		a.Blob.Close()
	}
}

func (e *elsewhere) note(repo reference.Repository, c ocispec.Descriptor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	restricted := policy.NonDistributable(c.MediaType)
	known, ok := e.rights.Get(part{repo, c.Digest})
	if !ok && !restricted {
		return // Nothing says otherwise.
	}
	known.restricted = known.restricted || restricted
	known.free = known.free || !restricted
	e.rights.Add(part{repo, c.Digest}, known)
}

// withheld tells whether a layer is not given to other members.
func (e *elsewhere) withheld(ref reference.Reference) bool {
	if e.policy.Share {
		return false
	}
	known, ok := e.rights.Peek(part{ref.Repository, ref.Digest})
	if !ok {
		known, _ = e.rights.Peek(part{reference.Repository{}, ref.Digest}) // What was held when this process began.
	}
	return known.restricted && !known.free
}

// layer gives a foreign layer of a repository.
func (e *elsewhere) layer(ref reference.Reference) (foreign.Layer, bool) {
	return e.layers.Get(part{ref.Repository, ref.Digest})
}

// allowed gives the urls of a layer that may be used, or else why none may.
func (e *elsewhere) allowed(layer foreign.Layer) (urls []*url.URL, why error) {
	for _, raw := range layer.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			why = errors.Join(why, errors.New("a url can't be read"))
			continue
		}
		if err := e.policy.Check(u); err != nil {
			why = errors.Join(why, err)
			continue
		}
		urls = append(urls, u)
	}
	return urls, why
}

// ways are the sources of a blob, and what to do when none of them has it.
type ways struct {
	sources []flight.Source
	// through is the source for when there is no room to keep the blob; nil where there is none.
	through *upstreamSource
	// redirected says that otherwise sends the client elsewhere, so that upstream is not asked.
	redirected bool
	// otherwise stands in for the sources' error, if it is not nil.
	otherwise func(err error) error
}

func (w ways) failed(err error) error {
	if err == nil || w.otherwise == nil {
		return err
	}
	return w.otherwise(err)
}

// ways says where a blob may come from, in order, as the rules have it.
func (m *Mirror) ways(ref reference.Reference, size int64, r request) (ways, error) {
	var w ways
	route := m.cfg.Policy.Route(ref.Repository)
	registry := &upstreamSource{client: m.cfg.Upstream, ref: ref, origin: r.origin, gave: m.gave}
	if route.AsksUpstream() {
		w.through = registry
	}
	layer, foreign := m.elsewhere.layer(ref)
	foreign = foreign && r.grant.Gives() // Where it is, a manifest says that whoever asks may not have been given.
	if m.cfg.Members != nil && r.grant.Gives() && route.AsksMembers() && !m.elsewhere.withheld(ref) {
		members := m.cfg.Members.source(ref, r.grant, m.saw)
		members.apart = foreign
		if !foreign && route.AsksUpstream() && m.objects.Agree(size) {
			w.sources = m.small(members, registry, size)
			return w, nil
		}
		w.sources = append(w.sources, members)
	}
	if foreign {
		m.foreignWays(&w, ref, layer)
	}
	if route.AsksUpstream() && !w.redirected {
		w.sources = append(w.sources, registry)
	}
	if len(w.sources) == 0 {
		return w, w.failed(outside(ref, route, content.ErrNotFound))
	}
	return w, nil
}

// foreignWays adds the sources of a foreign layer.
func (m *Mirror) foreignWays(w *ways, ref reference.Reference, layer foreign.Layer) {
	urls, why := m.elsewhere.allowed(layer)
	switch {
	case len(urls) == 0:
		w.otherwise = func(err error) error {
			return fmt.Errorf("%s is a foreign layer, whose urls may not be used: %w; elsewhere: %w", ref, why, err)
		}
	case m.cfg.Policy.Foreign().Redirects():
		w.redirected = true
		w.otherwise = func(error) error { return &Elsewhere{Ref: ref, URL: urls[0].String()} }
	case m.cfg.Foreign != nil:
		w.sources = append(w.sources, &foreignSource{client: m.cfg.Foreign, ref: ref, layer: layer, urls: urls, saw: m.saw})
	}
}

// statElsewhere answers for a foreign layer's existence and size as its manifest tells them. It answers nothing, with
// an empty source, for all other blobs, and where nobody has said that what is known here may be given.
func (m *Mirror) statElsewhere(ref reference.Reference, r request) (ocispec.Descriptor, string, error) {
	if layer, ok := m.elsewhere.layer(ref); ok && r.grant.Gives() {
		if urls, _ := m.elsewhere.allowed(layer); len(urls) > 0 {
			if m.cfg.Policy.Foreign().Redirects() {
				return ocispec.Descriptor{}, "", &Elsewhere{Ref: ref, URL: urls[0].String()}
			}
			return ocispec.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size}, Foreign, nil
		}
	}
	return ocispec.Descriptor{}, "", m.asksUpstream(ref.Repository)
}

// asksUpstream says why upstream may not be asked for a repository, if it may not.
func (m *Mirror) asksUpstream(repo reference.Repository) error {
	if route := m.cfg.Policy.Route(repo); !route.AsksUpstream() {
		return fmt.Errorf("%s: its route (%s) asks nothing outside of the cluster: %w", repo, route.Name, content.ErrNotFound)
	}
	return nil
}

// foreignSource is the urls of a foreign layer, as a flight sees them.
type foreignSource struct {
	client *foreign.Client
	ref    reference.Reference
	layer  foreign.Layer
	urls   []*url.URL
	saw    func(ref reference.Reference, dgst digest.Digest)
	wrong  atomic.Bool
}

// Verified implements flight.Witness.
func (s *foreignSource) Verified() { s.saw(s.ref, s.ref.Digest) }

// Open implements flight.Source.
func (s *foreignSource) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	if s.wrong.Load() {
		return nil, fmt.Errorf("%s gave wrong bytes before", s)
	}
	in, err := s.client.Open(ctx, s.layer, s.urls, off, end)
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Trusted implements flight.Source: whoever wrote the manifest chose the url.
func (s *foreignSource) Trusted() bool { return false }

// Blame implements flight.Source: this pull does not ask again, the next one does.
func (s *foreignSource) Blame(error) { s.wrong.Store(true) }

// Kind implements flight.Source.
func (s *foreignSource) Kind() string { return Foreign }

// String implements flight.Source.
func (s *foreignSource) String() string {
	return fmt.Sprintf("the urls of %s in %s", s.ref.Digest, s.ref.Repository)
}

package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetched is a manifest that came from elsewhere, or the word that a tag still means what it meant: then without body.
type fetched struct {
	desc   ocispec.Descriptor
	body   []byte
	source string
	// lifetime is what upstream said of it.
	lifetime upstream.Lifetime
}

// Manifest answers a request for a manifest, by tag or by digest. What is at hand is answered without further ado;
// everything else together takes AnswerWithin at most.
func (m *Mirror) Manifest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	a, err := admitted(ctx, m, ref, aManifest, origin, func(ctx context.Context, o upstream.Origin) (*Answer, error) {
		return m.manifest(ctx, ref, o)
	})
	if err == nil {
		m.elsewhere.see(ref.Repository, a.Blob)
	}
	return a, err
}

func (m *Mirror) manifest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	if ref.Digest != "" {
		if a, ok := m.held(ctx, ref.Digest); ok {
			return a, nil
		}
		ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
		defer cancel()
		return m.byDigest(ctx, ref, origin)
	}
	known := m.meaning(ctx, ref)
	if !known.rule.Answers() {
		return nil, fmt.Errorf("%s: %w (%s)", ref, ErrDenied, known.rule.Name)
	}
	if known.fresh {
		if a, ok := m.held(ctx, known.Target.Digest); ok {
			return m.meant(a, known.Tag, "fresh"), nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
	defer cancel()
	return m.byTag(ctx, ref, known, origin)
}

// held gives a manifest that needs nobody to be asked.
func (m *Mirror) held(ctx context.Context, dgst digest.Digest) (*Answer, bool) {
	if err := m.allowed(ctx, dgst); err != nil {
		return nil, false
	}
	if f, ok := m.memory.Get(dgst); ok {
		m.cfg.Keeper.Touch(dgst) // Or the manifests that are used most would look unused.
		return f.answer(), true
	}
	a, err := m.local.manifest(ctx, dgst)
	if err != nil {
		if !errors.Is(err, content.ErrNotFound) {
			m.cfg.Log.Info("held manifest can't be read", "digest", dgst, "reason", err.Error())
		}
		return nil, false
	}
	if a.Descriptor.Size > largestInMemory {
		return a, true
	}
	defer a.Blob.Close()
	body, err := content.ReadAll(ctx, a.Blob, largestInMemory)
	if err != nil {
		m.cfg.Log.Info("held manifest can't be read", "digest", dgst, "reason", err.Error())
		return nil, false
	}
	f := fetched{desc: a.Descriptor, body: body, source: a.Source}
	m.memory.Add(dgst, f) // What a digest names never changes, so that there is nothing to forget.
	return f.answer(), true
}

func (f fetched) answer() *Answer {
	return &Answer{Blob: content.Bytes{Body: f.body, Type: f.desc.MediaType}, Descriptor: f.desc, Source: f.source}
}

// byDigest gets a manifest from wherever it can be had.
func (m *Mirror) byDigest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	if a, ok := m.held(ctx, ref.Digest); ok {
		return a, nil
	}
	key := manifestKey(ctx, ref)
	if err := m.failed(key); err != nil {
		return nil, err
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		return m.fetch(ctx, ref, origin)
	})
	if err != nil {
		return nil, err
	}
	return m.kept(ctx, got), nil
}

// kept answers with a manifest that was just fetched. A large one is read from the store where it can be, so that
// clients that do not read hold no memory.
func (m *Mirror) kept(ctx context.Context, got fetched) *Answer {
	if got.desc.Size > largestInMemory {
		if a, err := m.local.manifest(ctx, got.desc.Digest); err == nil {
			a.Source = got.source
			return a
		}
	}
	return got.answer()
}

// manifestKey is the key under which a look-up of a manifest is shared and its failure remembered. Those of blobs are
// others: a registry may well have the one and lack the other by the same digest.
func manifestKey(ctx context.Context, ref reference.Reference) string {
	return scoped(ctx, "manifest "+ref.String())
}

// fetch gets a manifest, and keeps it. By digest it is got from whom the members agree on.
func (m *Mirror) fetch(ctx context.Context, ref reference.Reference, origin upstream.Origin) (fetched, error) {
	route := m.cfg.Policy.Route(ref.Repository)
	switch {
	case ref.Digest == "" || !route.AsksMembers():
		return m.fetchUpstream(ctx, ref, origin)
	case !route.AsksUpstream():
		got, err := m.fetchFrom(ctx, ref)
		if err != nil {
			return fetched{}, m.gone(ctx, ref, outside(ref, route, err))
		}
		return got, nil
	}
	size := m.sizeOf(ref.Digest)
	p := m.pursue(ctx, ref.Digest, size)
	for {
		switch what, answer := p.next(ctx); what {
		case lead:
			l := p.lead()
			got, err := m.fetchUpstream(ctx, ref, origin)
			l.end(func(ctx context.Context) {
				if err != nil {
					m.tell(ctx, p.key, failed(size, err))
					return
				}
				m.hold(ctx, p.key, got.desc.Digest, got.desc.Size)
			})
			return got, err
		case ask:
			got, err := m.fetchFrom(ctx, ref, holders(answer)...)
			if err == nil {
				m.spawn(func(ctx context.Context) { m.hold(ctx, p.key, got.desc.Digest, got.desc.Size) })
				return got, nil
			}
			p.small.Stalled = true
		default:
			if got, err := m.fetchFrom(ctx, ref); err == nil {
				return got, nil
			}
			return m.fetchUpstream(ctx, ref, origin)
		}
	}
}

func (m *Mirror) fetchUpstream(ctx context.Context, ref reference.Reference, origin upstream.Origin) (fetched, error) {
	if route := m.cfg.Policy.Route(ref.Repository); !route.AsksUpstream() {
		return fetched{}, m.gone(ctx, ref, outside(ref, route, content.ErrNotFound))
	}
	up, err := m.cfg.Upstream.Manifest(ctx, ref, origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, err)
	}
	return m.take(ctx, ref, fetched{up.Descriptor, up.Body, Upstream, up.Lifetime}), nil
}

// fetchFrom gets a manifest from some members, or from those that discovery knows to hold it if none are named.
func (m *Mirror) fetchFrom(ctx context.Context, ref reference.Reference, members ...discovery.Member) (fetched, error) {
	if m.cfg.Members == nil {
		return fetched{}, content.ErrNotFound
	}
	desc, body, err := m.cfg.Members.Manifest(ctx, ref, members...)
	if err != nil {
		return fetched{}, err
	}
	return m.take(ctx, ref, fetched{desc: desc, body: body, source: Peer}), nil
}

// take keeps a manifest that was fetched. Where the store keeps nothing, other members get it from memory for a while.
func (m *Mirror) take(ctx context.Context, ref reference.Reference, got fetched) fetched {
	if err := m.cfg.Keeper.Put(ctx, content.OwnerOf(ref.Registry), got.desc, got.body); err != nil {
		m.cfg.Log.V(1).Info("manifest not kept", "ref", ref.String(), "reason", err.Error())
		if got.desc.Size <= largestInMemory {
			m.memory.Add(got.desc.Digest, fetched{desc: got.desc, body: got.body, source: "memory"})
		}
	}
	m.learn(ref.Repository, got.body)
	m.saw(ref, got.desc.Digest)
	return got
}

// gone takes note of a failed look-up, and passes it on.
func (m *Mirror) gone(ctx context.Context, ref reference.Reference, err error) error {
	m.remember(manifestKey(ctx, ref), err)
	if ref.Tag != "" {
		m.tags.WithLabelValues("failed").Inc()
		if errors.Is(err, upstream.ErrNotFound) {
			if derr := m.cfg.Keeper.DeleteTag(ctx, ref); derr != nil {
				m.cfg.Log.Error(derr, "forget tag", "ref", ref.String())
			}
		}
	}
	return err
}

// outside says that a route asks nothing outside of the cluster.
func outside(ref reference.Reference, route policy.Route, err error) error {
	return fmt.Errorf("%s, and its route (%s) asks nothing outside of the cluster: %w", ref, route.Name, err)
}

// child is what a manifest told of something that it consists of.
type child struct {
	size   int64
	before []digest.Digest // What the same manifest names before it.
}

// sizeOf gives the size of something that a manifest named; negative if none did.
func (m *Mirror) sizeOf(dgst digest.Digest) int64 {
	if c, ok := m.children.Get(dgst); ok {
		return c.size
	}
	return -1
}

// Earlier gives what the last manifest that named a blob names before it, in order.
func (m *Mirror) Earlier(dgst digest.Digest) []digest.Digest {
	c, _ := m.children.Get(dgst)
	return c.before
}

// learn notes what a manifest tells of its children. A manifest that can't be read tells nothing.
func (m *Mirror) learn(repo reference.Repository, body []byte) {
	children, err := content.Children(body)
	if err != nil {
		return
	}
	children = children[:min(len(children), maxRemembered/4)]
	all := make([]digest.Digest, len(children))
	for i, c := range children {
		all[i] = c.Digest
		m.children.Add(c.Digest, child{size: c.Size, before: all[:i:i]})
	}
	m.elsewhere.learn(repo, body)
}

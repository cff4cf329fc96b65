package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm/object"
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
	a, err := granted(ctx, m, ref, aManifest, origin, func(ctx context.Context, r request) (*Answer, error) {
		return m.manifest(ctx, ref, r)
	})
	if err == nil {
		m.passes(ref.Repository, a)
	}
	return a, err
}

func (m *Mirror) manifest(ctx context.Context, ref reference.Reference, r request) (*Answer, error) {
	if ref.Digest != "" {
		if a, ok := m.held(ctx, r, ref.Digest); ok {
			return a, nil
		}
		ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
		defer cancel()
		return m.byDigest(ctx, ref, r)
	}
	known := m.meaning(ctx, ref)
	if !known.rule.Answers() {
		return nil, fmt.Errorf("%s: %w (%s)", ref, ErrDenied, known.rule.Name)
	}
	if known.fresh && r.heard == nil {
		if a, ok := m.held(ctx, r, known.Target.Digest); ok {
			return m.meant(a, known.Tag, "fresh"), nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
	defer cancel()
	if r.heard != nil {
		if a, err := m.byHeard(ctx, ref, known, r); err == nil {
			return a, nil
		}
	}
	return m.byTag(ctx, ref, known, r)
}

// held gives a manifest that needs nobody to be asked.
func (m *Mirror) held(ctx context.Context, r request, dgst digest.Digest) (*Answer, bool) {
	if err := m.allowed(ctx, r, dgst); err != nil {
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
func (m *Mirror) byDigest(ctx context.Context, ref reference.Reference, r request) (*Answer, error) {
	r = m.anew(r)
	if a, ok := m.held(ctx, r, ref.Digest); ok {
		return a, nil
	}
	key := manifestKey(r, ref)
	if err := m.failed(key); err != nil {
		return nil, err
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		// Somebody may have got it while this one was about to.
		if a, ok := m.held(ctx, m.anew(r), ref.Digest); ok {
			if b, ok := a.Blob.(content.Bytes); ok {
				return fetched{desc: a.Descriptor, body: b.Body, source: a.Source}, nil
			}
			a.Blob.Close()
		}
		return m.fetch(ctx, ref, r)
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
func manifestKey(r request, ref reference.Reference) string {
	return r.scoped("manifest " + ref.String())
}

// fetch gets a manifest, and keeps it. By digest it is got from whom the members agree on.
func (m *Mirror) fetch(ctx context.Context, ref reference.Reference, r request) (fetched, error) {
	route := m.cfg.Policy.Route(ref.Repository)
	switch {
	case ref.Digest == "" || !route.AsksMembers() || !r.grant.Gives():
		return m.fetchUpstream(ctx, ref, r)
	case !route.AsksUpstream():
		got, err := m.fetchFrom(ctx, ref, r)
		if err != nil {
			return fetched{}, m.gone(ctx, ref, r, outside(ref, route, err))
		}
		return got, nil
	}
	size := m.sizeOf(ref)
	want := m.objects.Content(ref.Digest, r.grant.Scope(), size)
	for {
		switch turn, answer := want.Next(ctx); turn {
		case object.Lead:
			lease := want.Lead()
			got, err := m.fetchUpstream(ctx, ref, r)
			if err != nil {
				lease.Failed(err)
				return fetched{}, err
			}
			lease.Got(got.desc.Digest, got.desc.Size)
			return got, nil
		case object.Ask:
			got, err := m.fetchFrom(ctx, ref, r, answer.Holders...)
			if err == nil {
				want.Got(got.desc.Digest, got.desc.Size)
				return got, nil
			}
			want.Missed()
		default:
			if got, err := m.fetchFrom(ctx, ref, r); err == nil {
				return got, nil
			}
			return m.fetchUpstream(ctx, ref, r)
		}
	}
}

func (m *Mirror) fetchUpstream(ctx context.Context, ref reference.Reference, r request) (fetched, error) {
	if route := m.cfg.Policy.Route(ref.Repository); !route.AsksUpstream() {
		return fetched{}, m.gone(ctx, ref, r, outside(ref, route, content.ErrNotFound))
	}
	up, err := m.cfg.Upstream.Manifest(ctx, ref, r.origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, r, err)
	}
	return m.take(ctx, ref, fetched{up.Descriptor, up.Body, Upstream, up.Lifetime}), nil
}

// fetchFrom gets a manifest from some members, or from those that discovery knows to hold it if none are named.
func (m *Mirror) fetchFrom(ctx context.Context, ref reference.Reference, r request, members ...discovery.Member) (fetched, error) {
	if m.cfg.Members == nil || !r.grant.Gives() {
		return fetched{}, content.ErrNotFound
	}
	desc, body, err := m.cfg.Members.Manifest(ctx, ref, r.grant.Claim(), members...)
	if err != nil {
		return fetched{}, err
	}
	return m.take(ctx, ref, fetched{desc: desc, body: body, source: Peer}), nil
}

// take keeps a manifest that was fetched. Where the store keeps nothing, other members get it from memory for a while.
func (m *Mirror) take(ctx context.Context, ref reference.Reference, got fetched) fetched {
	got.desc.MediaType = m.hints.declared(ref.Repository, got.desc, got.body)
	if err := m.cfg.Keeper.Put(ctx, content.OwnerOf(ref.Registry), got.desc, got.body); err != nil {
		m.cfg.Log.V(1).Info("manifest not kept", "ref", ref.String(), "reason", err.Error())
		if got.desc.Size <= largestInMemory {
			m.memory.Add(got.desc.Digest, fetched{desc: got.desc, body: got.body, source: "memory"})
		}
	}
	m.learn(ref.Repository, got.desc.Digest, got.body)
	m.saw(ref, got.desc.Digest)
	return got
}

// gone takes note of a failed look-up, and passes it on.
func (m *Mirror) gone(ctx context.Context, ref reference.Reference, r request, err error) error {
	m.rememberFor(r, manifestKey(r, ref), err)
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

package mirror

import (
	"context"
	"errors"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetched is a manifest that came from upstream, or the word that a tag still means what it meant: then without body.
type fetched struct {
	desc ocispec.Descriptor
	body []byte
}

// Manifest answers a request for a manifest, by tag or by digest.
func (m *Mirror) Manifest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	if ref.Digest != "" {
		return m.byDigest(ctx, ref, origin)
	}
	return m.byTag(ctx, ref, origin)
}

func (m *Mirror) byDigest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	if a, ok := m.open(ctx, ref.Digest); ok {
		if a.Descriptor.MediaType == "" {
			return m.typed(ctx, a)
		}
		return a, nil
	}
	key := ref.String()
	if err := m.failed(key); err != nil {
		return nil, err
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		return m.fetch(ctx, ref, origin)
	})
	if err != nil {
		return nil, err
	}
	return got.answer(), nil
}

// typed finds out the media type of a manifest that came without one: asked for as a blob before, or adopted.
func (m *Mirror) typed(ctx context.Context, a *Answer) (*Answer, error) {
	defer a.Blob.Close()
	body, err := content.ReadAll(ctx, a.Blob, content.MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	a.Descriptor.MediaType = content.ManifestType(body)
	a.Blob = content.Bytes{Body: body, Type: a.Descriptor.MediaType}
	return a, nil
}

func (f fetched) answer() *Answer {
	return &Answer{Blob: content.Bytes{Body: f.body, Type: f.desc.MediaType}, Descriptor: f.desc, Source: Upstream}
}

func (m *Mirror) byTag(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	tag, err := m.cfg.Keeper.Tag(ctx, ref)
	known := err == nil
	if err != nil && !errors.Is(err, content.ErrNotFound) {
		m.cfg.Log.Info("tag store failed", "ref", ref.String(), "reason", err.Error())
	}
	if known && m.cfg.Now().Sub(tag.Confirmed) < m.cfg.FreshFor {
		if a, err := m.byDigest(ctx, withDigest(ref, tag), origin); err == nil {
			m.tags.WithLabelValues("fresh").Inc()
			a.Age = m.cfg.Now().Sub(tag.Confirmed)
			return a, nil
		}
		known = false // It means a manifest that can't be had any more. Ask again.
	}
	key := ref.String()
	if err := m.failed(key); err != nil {
		return m.lastKnown(ctx, ref, tag, known, err)
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		return m.confirm(ctx, ref, tag, known, origin)
	})
	if err != nil {
		return m.lastKnown(ctx, ref, tag, known, err)
	}
	if got.body != nil {
		return got.answer(), nil
	}
	return m.byDigest(ctx, withDigest(ref, content.Tag{Target: got.desc}), origin)
}

// confirm asks upstream what a tag means now. What is known is asked for with HEAD, which costs no pull where pulls
// are counted; what is not, with GET, because the client will want it next.
func (m *Mirror) confirm(ctx context.Context, ref reference.Reference, tag content.Tag, known bool, origin upstream.Origin) (fetched, error) {
	if !known {
		got, err := m.fetch(ctx, ref, origin)
		if err == nil {
			m.tags.WithLabelValues("new").Inc()
			m.setTag(ctx, ref, got.desc)
		}
		return got, err
	}
	desc, err := m.cfg.Upstream.Head(ctx, ref, tag.Target.Digest, origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, err)
	}
	if desc.Digest == tag.Target.Digest {
		m.tags.WithLabelValues("confirmed").Inc()
		m.setTag(ctx, ref, tag.Target)
		return fetched{desc: tag.Target}, nil
	}
	// The new manifest comes first, so that the tag never means something that could not be had.
	if a, ok := m.open(ctx, desc.Digest); ok {
		a.Blob.Close()
	} else if _, err := m.fetch(ctx, withDigest(ref, content.Tag{Target: desc}), origin); err != nil {
		return fetched{}, err
	}
	m.tags.WithLabelValues("moved").Inc()
	m.setTag(ctx, ref, desc)
	return fetched{desc: desc}, nil
}

// fetch gets a manifest from upstream and keeps it.
func (m *Mirror) fetch(ctx context.Context, ref reference.Reference, origin upstream.Origin) (fetched, error) {
	got, err := m.cfg.Upstream.Manifest(ctx, ref, origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, err)
	}
	if err := m.cfg.Keeper.Put(ctx, got.Descriptor, got.Body); err != nil {
		m.cfg.Log.V(1).Info("manifest not kept", "ref", ref.String(), "reason", err.Error())
	}
	m.learn(got.Body)
	return fetched{desc: got.Descriptor, body: got.Body}, nil
}

// gone takes note of a failed look-up, and passes it on.
func (m *Mirror) gone(ctx context.Context, ref reference.Reference, err error) error {
	m.remember(ref.String(), err)
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

// lastKnown answers with what a tag meant when it was last confirmed, if it may and if that can be had. It is for
// upstreams that can't be asked: one that says no is believed.
func (m *Mirror) lastKnown(ctx context.Context, ref reference.Reference, tag content.Tag, known bool, err error) (*Answer, error) {
	unasked := errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, upstream.ErrRateLimited) || errors.Is(err, context.DeadlineExceeded)
	if !known || !m.cfg.StaleIfError || !unasked {
		return nil, err
	}
	a, ok := m.open(ctx, tag.Target.Digest)
	if !ok {
		return nil, err
	}
	if a.Descriptor.MediaType == "" {
		a.Descriptor.MediaType = tag.Target.MediaType
	}
	a.Age, a.Stale = m.cfg.Now().Sub(tag.Confirmed), true
	m.tags.WithLabelValues("stale").Inc()
	m.cfg.Log.Info("tag not confirmed", "ref", ref.String(), "digest", tag.Target.Digest, "age", a.Age, "reason", err.Error())
	return a, nil
}

func (m *Mirror) setTag(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor) {
	if err := m.cfg.Keeper.SetTag(ctx, ref, content.Tag{Target: desc, Confirmed: m.cfg.Now()}); err != nil {
		m.cfg.Log.V(1).Info("tag not kept", "ref", ref.String(), "reason", err.Error())
	}
}

// learn notes the sizes that a manifest tells of its children. A manifest that can't be read tells none.
func (m *Mirror) learn(body []byte) {
	children, err := content.Children(body)
	if err != nil {
		return
	}
	for _, c := range children[:min(len(children), maxRemembered/4)] {
		m.sizes.Add(c.Digest, c.Size)
	}
}

func withDigest(ref reference.Reference, tag content.Tag) reference.Reference {
	return reference.Reference{Repository: ref.Repository, Digest: tag.Target.Digest}
}

package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetched is a manifest that came from elsewhere, or the word that a tag still means what it meant: then without body.
type fetched struct {
	desc   ocispec.Descriptor
	body   []byte
	source string
}

// Manifest answers a request for a manifest, by tag or by digest.
func (m *Mirror) Manifest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	if ref.Digest != "" {
		return m.byDigest(ctx, ref, origin)
	}
	return m.byTag(ctx, ref, origin)
}

func (m *Mirror) byDigest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	if f, ok := m.memory.Get(ref.Digest); ok {
		return f.answer(), nil
	}
	if a, err := m.local.manifest(ctx, ref.Digest); err == nil {
		return m.intoMemory(ctx, a)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
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

// intoMemory keeps a small manifest at hand. What a digest names never changes, so that there is nothing to forget.
func (m *Mirror) intoMemory(ctx context.Context, a *Answer) (*Answer, error) {
	if a.Descriptor.Size > largestInMemory {
		return a, nil
	}
	defer a.Blob.Close()
	body, err := content.ReadAll(ctx, a.Blob, largestInMemory)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", a.Descriptor.Digest, err)
	}
	f := fetched{a.Descriptor, body, a.Source}
	m.memory.Add(a.Descriptor.Digest, f)
	return f.answer(), nil
}

func (f fetched) answer() *Answer {
	return &Answer{Blob: content.Bytes{Body: f.body, Type: f.desc.MediaType}, Descriptor: f.desc, Source: f.source}
}

func (m *Mirror) byTag(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*Answer, error) {
	tag, err := m.local.tag(ctx, ref)
	known := err == nil
	if err != nil && !errors.Is(err, content.ErrNotFound) {
		m.cfg.Log.Info("tag store failed", "ref", ref.String(), "reason", err.Error())
	}
	if known && m.cfg.Now().Sub(tag.Confirmed) < m.cfg.FreshFor {
		if a, err := m.meant(ctx, ref, tag, origin, "fresh"); err == nil {
			return a, nil
		}
		known = false // It means a manifest that can't be had any more. Ask again.
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	key := ref.String()
	if err := m.failed(key); err != nil {
		return m.lastKnown(ctx, ref, tag, known, err)
	}
	if !m.cfg.Mutable(ref) {
		// One confirmation serves the whole cluster; and where a tag is not expected to move, an old one will do.
		if tag, err := m.askMembers(ctx, ref); err == nil && (!known || m.cfg.Now().Sub(tag.Confirmed) < m.cfg.FreshFor) {
			if a, err := m.meant(ctx, ref, tag, origin, Peer); err == nil {
				return a, nil
			}
		}
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		if m.cfg.StaleIfError && (known || m.cfg.Members != nil) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, confirmWithin)
			defer cancel()
		}
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

// meant answers with the manifest that a tag means.
func (m *Mirror) meant(ctx context.Context, ref reference.Reference, tag content.Tag, origin upstream.Origin, how string) (*Answer, error) {
	a, err := m.byDigest(ctx, withDigest(ref, tag), origin)
	if err != nil {
		return nil, err
	}
	if a.Descriptor.MediaType == "" {
		a.Descriptor.MediaType = tag.Target.MediaType
	}
	m.tags.WithLabelValues(how).Inc()
	a.Age = max(0, m.cfg.Now().Sub(tag.Confirmed))
	return a, nil
}

// askMembers asks the other members what a tag means, once for all who ask at the same time, and remembers it.
func (m *Mirror) askMembers(ctx context.Context, ref reference.Reference) (content.Tag, error) {
	if m.cfg.Members == nil {
		return content.Tag{}, content.ErrNotFound
	}
	return share(ctx, m, "members "+ref.String(), func(ctx context.Context) (content.Tag, error) {
		tag, err := m.cfg.Members.Tag(ctx, ref)
		if err != nil {
			return tag, err
		}
		if own, err := m.local.tag(ctx, ref); err != nil || own.Confirmed.Before(tag.Confirmed) {
			m.setTag(ctx, ref, tag)
		}
		return tag, nil
	})
}

// confirm asks upstream what a tag means now. What is known is asked for with HEAD, which costs no pull where pulls
// are counted; what is not, with GET, because the client will want it next.
func (m *Mirror) confirm(ctx context.Context, ref reference.Reference, tag content.Tag, known bool, origin upstream.Origin) (fetched, error) {
	if !known {
		got, err := m.fetch(ctx, ref, origin)
		if err == nil {
			m.tags.WithLabelValues("new").Inc()
			m.setTag(ctx, ref, content.Tag{Target: got.desc, Confirmed: m.cfg.Now()})
		}
		return got, err
	}
	desc, err := m.cfg.Upstream.Head(ctx, ref, tag.Target.Digest, origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, err)
	}
	if desc.Digest == tag.Target.Digest {
		m.tags.WithLabelValues("confirmed").Inc()
		m.setTag(ctx, ref, content.Tag{Target: tag.Target, Confirmed: m.cfg.Now()})
		return fetched{desc: tag.Target}, nil
	}
	// The new manifest comes first, so that the tag never means something that could not be had.
	if a, err := m.local.open(ctx, desc.Digest); err == nil {
		a.Blob.Close()
	} else if _, err := m.fetch(ctx, withDigest(ref, content.Tag{Target: desc}), origin); err != nil {
		return fetched{}, err
	}
	m.tags.WithLabelValues("moved").Inc()
	m.setTag(ctx, ref, content.Tag{Target: desc, Confirmed: m.cfg.Now()})
	return fetched{desc: desc}, nil
}

// fetch gets a manifest from other members, if it is asked for by digest, or from upstream, and keeps it.
func (m *Mirror) fetch(ctx context.Context, ref reference.Reference, origin upstream.Origin) (fetched, error) {
	got, err := m.fetchFromMembers(ctx, ref)
	if err != nil {
		up, uerr := m.cfg.Upstream.Manifest(ctx, ref, origin)
		if uerr != nil {
			return fetched{}, m.gone(ctx, ref, uerr)
		}
		got = fetched{up.Descriptor, up.Body, Upstream}
	}
	if err := m.cfg.Keeper.Put(ctx, got.desc, got.body); err != nil {
		m.cfg.Log.V(1).Info("manifest not kept", "ref", ref.String(), "reason", err.Error())
	}
	m.learn(got.body)
	return got, nil
}

func (m *Mirror) fetchFromMembers(ctx context.Context, ref reference.Reference) (fetched, error) {
	if m.cfg.Members == nil || ref.Digest == "" {
		return fetched{}, content.ErrNotFound
	}
	desc, body, err := m.cfg.Members.Manifest(ctx, ref)
	return fetched{desc, body, Peer}, err
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

// lastKnown answers with what a tag meant when it was last confirmed, here or at another member, if it may and if that
// can be had. It is for upstreams that can't be asked: one that says no is believed.
func (m *Mirror) lastKnown(ctx context.Context, ref reference.Reference, tag content.Tag, known bool, err error) (*Answer, error) {
	unasked := errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, upstream.ErrRateLimited) || errors.Is(err, context.DeadlineExceeded)
	if !m.cfg.StaleIfError || !unasked {
		return nil, err
	}
	if !known {
		var merr error
		if tag, merr = m.askMembers(ctx, ref); merr != nil {
			return nil, err
		}
	}
	a, aerr := m.meant(ctx, ref, tag, upstream.Origin{}, "stale")
	if aerr != nil {
		return nil, err
	}
	a.Stale = true
	m.cfg.Log.Info("tag not confirmed", "ref", ref.String(), "digest", tag.Target.Digest, "age", a.Age, "reason", err.Error())
	return a, nil
}

func (m *Mirror) setTag(ctx context.Context, ref reference.Reference, tag content.Tag) {
	if err := m.cfg.Keeper.SetTag(ctx, ref, tag); err != nil {
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

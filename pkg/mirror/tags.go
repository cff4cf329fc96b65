package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/coordinator"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/upstream"
)

// meaning is what this node knows of a tag.
type meaning struct {
	content.Tag
	known bool
	// fresh says that it may be believed without asking anybody.
	fresh bool
}

// meaning looks up what this node knows of a tag. Only upstream's word makes it fresh: the runtime's record says when
// an image was pulled, and each pull writes it again, whatever the pull was answered with.
func (m *Mirror) meaning(ctx context.Context, ref reference.Reference) meaning {
	tag, vouched, err := m.local.tag(ctx, ref)
	if err != nil {
		if !errors.Is(err, content.ErrNotFound) {
			m.cfg.Log.Info("tag store failed", "ref", ref.String(), "reason", err.Error())
		}
		return meaning{}
	}
	return meaning{Tag: tag, known: true, fresh: vouched && m.age(tag) < m.cfg.FreshFor}
}

// byTag finds out what a tag means, from whoever may say so, and gets the manifest.
func (m *Mirror) byTag(ctx context.Context, ref reference.Reference, known meaning, origin upstream.Origin) (*Answer, error) {
	if known.fresh {
		if a, err := m.byDigest(ctx, withDigest(ref, known.Tag), origin); err == nil {
			return m.meant(a, known.Tag, "fresh"), nil
		}
		known = meaning{} // It means a manifest that can't be had any more. Ask again.
	}
	key := manifestKey(ref)
	if err := m.failed(key); err != nil {
		return m.lastKnown(ctx, ref, known, err)
	}
	if !m.cfg.Mutable(ref) {
		// One confirmation serves the whole cluster; and where a tag is not expected to move, an old one will do.
		if tag, err := m.askMembers(ctx, ref); err == nil && (!known.known || m.age(tag) < m.cfg.FreshFor) {
			if a, err := m.byDigest(ctx, withDigest(ref, tag), origin); err == nil {
				return m.meant(a, tag, Peer), nil
			}
		}
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		if m.cfg.StaleIfError && (known.known || m.cfg.Members != nil && m.cfg.Mutable(ref)) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, confirmWithin)
			defer cancel()
		}
		return m.agree(ctx, ref, known, origin)
	})
	switch {
	case err != nil:
		return m.lastKnown(ctx, ref, known, err)
	case got.body != nil:
		return m.kept(ctx, got), nil
	}
	return m.byDigest(ctx, withDigest(ref, content.Tag{Target: got.desc}), origin)
}

// meant makes the answer for a manifest that of the tag that means it.
func (m *Mirror) meant(a *Answer, tag content.Tag, how string) *Answer {
	if a.Descriptor.MediaType == "" {
		a.Descriptor.MediaType = tag.Target.MediaType
	}
	m.tags.WithLabelValues(how).Inc()
	a.Age = m.age(tag)
	return a
}

// age is how long ago a tag was confirmed.
func (m *Mirror) age(tag content.Tag) time.Duration { return max(0, m.cfg.Now().Sub(tag.Confirmed)) }

// askMembers asks the other members what a tag means, once for all who ask at the same time, and remembers it.
func (m *Mirror) askMembers(ctx context.Context, ref reference.Reference) (content.Tag, error) {
	if m.cfg.Members == nil {
		return content.Tag{}, content.ErrNotFound
	}
	return share(ctx, m, "members "+ref.String(), func(ctx context.Context) (content.Tag, error) {
		tag, vouched, err := m.cfg.Members.Tag(ctx, ref)
		if err != nil {
			return tag, err
		}
		if stale := m.cfg.Now().Add(-m.cfg.FreshFor); !vouched && tag.Confirmed.After(stale) {
			tag.Confirmed = stale // It was pulled since, but nobody knows when a registry said so.
		}
		if own, err := m.cfg.Keeper.Tag(ctx, ref); err != nil || own.Confirmed.Before(tag.Confirmed) {
			m.setTag(ctx, ref, tag)
		}
		return tag, nil
	})
}

// agree finds out what a tag means now: one member asks upstream for all that want to know at the same time.
func (m *Mirror) agree(ctx context.Context, ref reference.Reference, known meaning, origin upstream.Origin) (fetched, error) {
	within := m.cfg.FreshFor
	if m.cfg.Mutable(ref) {
		within = min(within, moment)
	}
	p := m.pursueTag(ref.String(), within)
	switch what, answer := p.next(ctx); what {
	case believe:
		tag := content.Tag{Target: answer.Value.Target, Confirmed: answer.Value.Confirmed}
		m.tags.WithLabelValues("shared").Inc()
		m.setTag(ctx, ref, tag)
		return fetched{desc: tag.Target}, nil
	case lead:
		l := p.lead()
		got, err := m.confirm(ctx, ref, known, origin)
		l.end(func(ctx context.Context) {
			if err != nil {
				m.tell(ctx, p.key, failed(1, err))
				return
			}
			if got.body != nil {
				m.hold(ctx, got.desc.Digest, got.desc.Size) // First, as this is what the others want next.
			}
			s := coordinator.Small{Announce: swarm.Announce{Size: 1, Complete: true}}
			s.Value = &coordinator.TagValue{Target: got.desc, Confirmed: m.cfg.Now()}
			m.tell(ctx, p.key, s)
		})
		return got, err
	}
	return m.confirm(ctx, ref, known, origin)
}

// confirm asks upstream what a tag means now. What is known is asked for with HEAD, which costs no pull where pulls
// are counted; what is not, with GET, because the client will want it next.
func (m *Mirror) confirm(ctx context.Context, ref reference.Reference, known meaning, origin upstream.Origin) (fetched, error) {
	if !known.known {
		got, err := m.fetch(ctx, ref, origin)
		if err == nil {
			m.tags.WithLabelValues("new").Inc()
			m.setTag(ctx, ref, content.Tag{Target: got.desc, Confirmed: m.cfg.Now()})
		}
		return got, err
	}
	desc, err := m.cfg.Upstream.Head(ctx, ref, known.Target.Digest, origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, err)
	}
	if desc.Digest == known.Target.Digest {
		m.tags.WithLabelValues("confirmed").Inc()
		m.setTag(ctx, ref, content.Tag{Target: known.Target, Confirmed: m.cfg.Now()})
		return fetched{desc: known.Target}, nil
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

// lastKnown answers with what a tag meant when it was last confirmed, here or at another member, if it may and if that
// can be had. It is for upstreams that can't be asked: one that says no is believed.
func (m *Mirror) lastKnown(ctx context.Context, ref reference.Reference, known meaning, err error) (*Answer, error) {
	unasked := errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, upstream.ErrRateLimited) ||
		errors.Is(err, upstream.ErrInvalid) || errors.Is(err, context.DeadlineExceeded)
	if !m.cfg.StaleIfError || !unasked {
		return nil, err
	}
	tag := known.Tag
	if !known.known {
		var merr error
		if tag, merr = m.askMembers(ctx, ref); merr != nil {
			return nil, err
		}
	}
	a, aerr := m.byDigest(ctx, withDigest(ref, tag), upstream.Origin{})
	if aerr != nil {
		return nil, err
	}
	m.meant(a, tag, "stale")
	a.Stale = true
	m.cfg.Log.Info("tag not confirmed", "ref", ref.String(), "digest", tag.Target.Digest, "age", a.Age.String(), "reason", err.Error())
	return a, nil
}

func (m *Mirror) setTag(ctx context.Context, ref reference.Reference, tag content.Tag) {
	if err := m.cfg.Keeper.SetTag(ctx, ref, tag); err != nil {
		m.cfg.Log.V(1).Info("tag not kept", "ref", ref.String(), "reason", err.Error())
	}
}

func withDigest(ref reference.Reference, tag content.Tag) reference.Reference {
	return reference.Reference{Repository: ref.Repository, Digest: tag.Target.Digest}
}

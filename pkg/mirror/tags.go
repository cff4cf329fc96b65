package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm/object"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// meaning is what this node knows of a tag.
type meaning struct {
	content.Tag
	known bool
	// fresh says that it may be believed without asking anybody.
	fresh bool
	// vouched says that it is upstream's word.
	vouched bool
	// rule and route are what holds for the tag.
	rule  policy.TagRule
	route policy.Route
}

// meaning looks up what this node knows of a tag. Only upstream's word makes it fresh: the runtime's record says when
// an image was pulled, and each pull writes it again, whatever the pull was answered with.
func (m *Mirror) meaning(ctx context.Context, ref reference.Reference) meaning {
	known := meaning{rule: m.cfg.Policy.Tag(ref), route: m.cfg.Policy.Route(ref.Repository)}
	tag, vouched, err := m.local.tag(ctx, ref)
	if err != nil {
		if !errors.Is(err, content.ErrNotFound) {
			m.cfg.Log.Info("tag store failed", "ref", ref.String(), "reason", err.Error())
		}
		return known
	}
	known.Tag, known.known, known.vouched = tag, true, vouched
	said, ok := m.windows.Get(ref.String())
	if !ok {
		said = -1
	}
	known.fresh = known.rule.Fresh(m.known(known), said)
	return known
}

// byTag finds out what a tag means, from whoever may say so, and gets the manifest.
func (m *Mirror) byTag(ctx context.Context, ref reference.Reference, known meaning, r request) (*Answer, error) {
	if known.fresh {
		if a, err := m.byDigest(ctx, withDigest(ref, known.Tag), r); err == nil {
			return m.meant(a, known.Tag, "fresh"), nil
		}
		known.known, known.fresh = false, false // It means a manifest that can't be had any more. Ask again.
	}
	if !known.route.AsksUpstream() {
		return m.withoutUpstream(ctx, ref, known, r)
	}
	key := manifestKey(r, ref)
	if err := m.failed(key); err != nil {
		return m.lastKnown(ctx, ref, known, r, err)
	}
	if known.rule.MembersFirst() {
		// One confirmation serves the whole cluster; and where a tag is not expected to move, an old one will do.
		if tag, vouched, err := m.askMembers(ctx, ref, known, r); err == nil && known.rule.BelieveMembers(m.known(known), policy.Known{
			Known: true, Vouched: vouched, Age: m.age(tag),
		}) {
			if a, err := m.byDigest(ctx, withDigest(ref, tag), r); err == nil {
				return m.meant(a, tag, Peer), nil
			}
		}
	}
	got, err := share(ctx, m, key, func(ctx context.Context) (fetched, error) {
		// Somebody may have asked while this one was about to.
		if err := m.failed(key); err != nil {
			return fetched{}, err
		}
		if now := m.meaning(ctx, ref); now.fresh && now.Confirmed.After(known.Confirmed) {
			return fetched{desc: now.Target}, nil
		}
		if known.rule.FallsBack() && (known.known || m.cfg.Members != nil && !known.rule.MembersFirst()) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, confirmWithin)
			defer cancel()
		}
		return m.agree(ctx, ref, known, r)
	})
	switch {
	case err != nil:
		return m.lastKnown(ctx, ref, known, r, err)
	case got.body != nil:
		m.ages.Observe(0)
		return m.kept(ctx, got), nil
	}
	m.ages.Observe(0)
	return m.byDigest(ctx, withDigest(ref, content.Tag{Target: got.desc}), r)
}

// meant makes the answer for a manifest that of the tag that means it.
func (m *Mirror) meant(a *Answer, tag content.Tag, how string) *Answer {
	if a.Descriptor.MediaType == "" {
		a.Descriptor.MediaType = tag.Target.MediaType
	}
	m.tags.WithLabelValues(how).Inc()
	a.Age = m.age(tag)
	m.ages.Observe(a.Age.Seconds())
	return a
}

// age is how long ago a tag was confirmed.
func (m *Mirror) age(tag content.Tag) time.Duration { return max(0, m.cfg.Now().Sub(tag.Confirmed)) }

// known is what the policy has to know of a meaning.
func (m *Mirror) known(k meaning) policy.Known {
	return policy.Known{Known: k.known, Vouched: k.vouched, Own: k.Author == "", Age: m.age(k.Tag)}
}

// memberTag is what other members know of a tag.
type memberTag struct {
	content.Tag
	vouched bool
}

// askMembers asks the other members what a tag means, once for all who ask at the same time, and remembers it. vouched
// says that it is a registry's word.
func (m *Mirror) askMembers(ctx context.Context, ref reference.Reference, known meaning, r request) (tag content.Tag, vouched bool, err error) {
	if m.cfg.Members == nil || !known.route.AsksMembers() || !r.grant.Gives() {
		return content.Tag{}, false, content.ErrNotFound
	}
	got, err := share(ctx, m, r.scoped("members "+ref.String()), func(ctx context.Context) (memberTag, error) {
		tag, vouched, err := m.cfg.Members.Tag(ctx, ref, r.grant.Claim())
		if err != nil {
			return memberTag{}, err
		}
		if !vouched && m.local.isForgotten(ref, tag) {
			return memberTag{}, content.ErrNotFound
		}
		if stale := m.cfg.Now().Add(-known.rule.FreshFor); !vouched && tag.Confirmed.After(stale) {
			tag.Confirmed = stale // It was pulled since, but nobody knows when a registry said so.
		}
		if own, err := m.cfg.Keeper.Tag(ctx, ref); err != nil || own.Confirmed.Before(tag.Confirmed) {
			m.setTag(ctx, ref, tag)
		}
		return memberTag{tag, vouched}, nil
	})
	return got.Tag, got.vouched, err
}

// agree finds out what a tag means now: where members are believed, one of them asks upstream for all that want to know
// at the same time. Everywhere else each asks for itself.
func (m *Mirror) agree(ctx context.Context, ref reference.Reference, known meaning, r request) (fetched, error) {
	if !known.route.AsksMembers() || !known.rule.MembersFirst() || !r.grant.Gives() {
		return m.confirm(ctx, ref, known, r)
	}
	want := m.objects.Tag(ref.String(), r.grant.Scope(), m.sharedFor(ref, known.rule))
	switch turn, answer := want.Next(ctx); turn {
	case object.Believe:
		tag := content.Tag{Target: answer.Value.Target, Confirmed: answer.Value.Confirmed, Author: byTracker}
		m.tags.WithLabelValues("shared").Inc()
		m.setTag(ctx, ref, tag)
		return fetched{desc: tag.Target}, nil
	case object.Lead:
		lease := want.Lead()
		asked := m.cfg.Now() // Whoever has the tag forgotten from now on is not to be told of this.
		got, err := m.confirm(ctx, ref, known, r)
		if err != nil {
			lease.Failed(err)
			return got, err
		}
		lease.Means(tracker.TagValue{Target: got.desc, Confirmed: asked}, got.body != nil)
		return got, nil
	}
	return m.confirm(ctx, ref, known, r)
}

// sharedFor gives how old a confirmation by another member may be. One from before the tag was forgotten is none.
func (m *Mirror) sharedFor(ref reference.Reference, rule policy.TagRule) time.Duration {
	within := rule.FreshFor
	if at, ok := m.local.forgotten.Peek(ref.String()); ok {
		within = min(within, max(0, m.cfg.Now().Sub(at)))
	}
	return within
}

// byTracker is the author of what was agreed on: the tag's tracker says that another member heard it.
const byTracker = "tracker"

// confirm asks upstream what a tag means now. What is known is asked for with HEAD, which costs no pull where pulls
// are counted; what is not, with GET, because the client will want it next. Where each member asks for itself it is
// HEAD, and they agree on who gets the manifest.
func (m *Mirror) confirm(ctx context.Context, ref reference.Reference, known meaning, r request) (fetched, error) {
	asked := m.cfg.Now()
	agree := m.cfg.Members != nil && known.route.AsksMembers() && r.grant.Gives()
	if !known.known && (known.rule.MembersFirst() || !agree) {
		got, err := m.fetch(ctx, ref, r)
		if err == nil {
			m.tags.WithLabelValues("new").Inc()
			m.confirmed(ctx, ref, got.desc, got.lifetime, asked)
		}
		return got, err
	}
	head, err := m.cfg.Upstream.Head(ctx, ref, known.Target.Digest, r.origin)
	if err != nil {
		return fetched{}, m.gone(ctx, ref, r, err)
	}
	desc := head.Descriptor
	if desc.Digest == known.Target.Digest {
		m.tags.WithLabelValues("confirmed").Inc()
		m.confirmed(ctx, ref, known.Target, head.Lifetime, asked)
		return fetched{desc: known.Target}, nil
	}
	// The new manifest comes first, so that the tag never means something that could not be had.
	if a, err := m.open(ctx, r, desc.Digest); err == nil {
		a.Blob.Close()
	} else if _, err := m.fetch(ctx, withDigest(ref, content.Tag{Target: desc}), r); err != nil {
		return fetched{}, err
	}
	m.tags.WithLabelValues(known.changed(desc)).Inc()
	m.confirmed(ctx, ref, desc, head.Lifetime, asked)
	return fetched{desc: desc}, nil
}

// changed says how a registry's word differs from what was known.
func (k meaning) changed(desc ocispec.Descriptor) string {
	switch {
	case !k.known:
		return "new"
	case k.Target.Digest == desc.Digest:
		return "confirmed"
	}
	return "moved"
}

// byHeard answers with what upstream said of the tag when it was asked who may read.
func (m *Mirror) byHeard(ctx context.Context, ref reference.Reference, known meaning, r request) (*Answer, error) {
	// The manifest comes first, so that the tag never means something that could not be had.
	a, err := m.byDigest(ctx, withDigest(ref, content.Tag{Target: r.heard.desc}), r)
	if err != nil {
		return nil, err
	}
	m.tags.WithLabelValues(known.changed(r.heard.desc)).Inc()
	m.ages.Observe(0)
	m.confirmed(ctx, ref, r.heard.desc, r.heard.lifetime, r.heard.asked)
	return a, nil
}

// lastKnown answers with what a tag meant when it was last confirmed, here or at another member, if it may and if that
// can be had. It is for upstreams that can't be asked: one that says no is believed.
func (m *Mirror) lastKnown(ctx context.Context, ref reference.Reference, known meaning, r request, err error) (*Answer, error) {
	unasked := errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, upstream.ErrRateLimited) ||
		errors.Is(err, upstream.ErrInvalid) || errors.Is(err, context.DeadlineExceeded)
	if !known.rule.FallsBack() || !unasked {
		return nil, err
	}
	tag := known.Tag
	if !known.known {
		var merr error
		if tag, _, merr = m.askMembers(ctx, ref, known, r); merr != nil {
			return nil, err
		}
	}
	if !known.rule.FallBack(policy.Known{Known: true, Age: m.age(tag)}) {
		return nil, fmt.Errorf("what is known of %s is %v old, and more than %v is too old: %w", ref, m.age(tag), known.rule.MaxStale, err)
	}
	a, aerr := m.byDigest(ctx, withDigest(ref, tag), r)
	if aerr != nil {
		return nil, err
	}
	m.meant(a, tag, "stale")
	a.Stale = true
	m.cfg.Log.Info("tag not confirmed", "ref", ref.String(), "digest", tag.Target.Digest, "age", a.Age.String(), "reason", err.Error())
	return a, nil
}

// withoutUpstream answers for a tag whose route asks nothing outside of the cluster: whatever is known here, or else at
// other members, is what it means.
func (m *Mirror) withoutUpstream(ctx context.Context, ref reference.Reference, known meaning, r request) (*Answer, error) {
	tag := known.Tag
	how := "local"
	if !known.known {
		var err error
		if tag, _, err = m.askMembers(ctx, ref, known, r); err != nil {
			return nil, fmt.Errorf("%s, and its route (%s) asks nothing outside of the cluster: %w", ref, known.route.Name, err)
		}
		how = Peer
	}
	a, err := m.byDigest(ctx, withDigest(ref, tag), r)
	if err != nil {
		return nil, err
	}
	return m.meant(a, tag, how), nil
}

// confirmed takes note of what upstream said of a tag just now, unless the tag was forgotten after upstream was asked.
func (m *Mirror) confirmed(ctx context.Context, ref reference.Reference, target ocispec.Descriptor, lifetime upstream.Lifetime, asked time.Time) {
	if at, ok := m.local.forgotten.Peek(ref.String()); ok && !asked.After(at) {
		return
	}
	if window := m.cfg.Policy.Bounded(lifetime.MaxAge, lifetime.Said); window >= 0 {
		m.windows.Add(ref.String(), window)
	} else {
		m.windows.Remove(ref.String())
	}
	m.local.forgotten.Remove(ref.String())
	m.setTag(ctx, ref, content.Tag{Target: target, Confirmed: m.cfg.Now()})
}

// Refresh forgets what a tag meant, and that it could not be looked up: the next who asks for it hears upstream's word.
func (m *Mirror) Refresh(ctx context.Context, ref reference.Reference) error {
	if ref.Tag == "" {
		return fmt.Errorf("refresh %s: content by digest never changes, name a tag", ref)
	}
	m.local.forgotten.Add(ref.String(), m.cfg.Now())
	m.windows.Remove(ref.String())
	m.failures.Remove(manifestKey(request{grant: access.Ungoverned(ref.Repository)}, ref))
	if err := m.cfg.Keeper.DeleteTag(ctx, ref); err != nil {
		return fmt.Errorf("refresh %s: %w", ref, err)
	}
	m.cfg.Log.Info("tag forgotten", "ref", ref.String())
	return nil
}

func (m *Mirror) setTag(ctx context.Context, ref reference.Reference, tag content.Tag) {
	if err := m.cfg.Keeper.SetTag(ctx, ref, tag); err != nil {
		m.cfg.Log.V(1).Info("tag not kept", "ref", ref.String(), "reason", err.Error())
	}
}

func withDigest(ref reference.Reference, tag content.Tag) reference.Reference {
	return reference.Reference{Repository: ref.Repository, Digest: tag.Target.Digest}
}

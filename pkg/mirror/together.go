package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/sleep"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
)

const (
	// renewEvery is how often a member that fetches for all says that it still does, and renewWithin what it promises:
	// when it dies, somebody else goes upstream after that time.
	renewEvery  = 300 * time.Millisecond
	renewWithin = 1500 * time.Millisecond
	// leadWithin is how long such a fetch may take, so that nobody renews for ever what was given up unnoticed.
	leadWithin = 30 * time.Second
	// waitForOthers bounds how long another member may take to get something small, as long as it lives. Then this one
	// goes upstream by itself.
	waitForOthers = 5 * time.Second
	// waitForTag is the same for tags. It leaves some of the time that upstream has to confirm a tag.
	waitForTag = 2500 * time.Millisecond
	// tellWithin bounds one word to a tracker that nobody waits for.
	tellWithin = 2 * time.Second
	// keptWithin is how long a blob may take from its last byte until this node holds it. One that does not hold what it
	// got has others wait in vain, and takes no part in this for keepsNothingFor.
	keptWithin      = time.Second
	keepsNothingFor = time.Minute
	// polled is what an announce takes at least if it waited at the tracker for as long as it may.
	polled = 500 * time.Millisecond
	// maxTurns bounds how often holders may fail one after the other.
	maxTurns = 4
)

// Tracker agrees with the other members on who gets something small from upstream.
type Tracker interface {
	AnnounceSmall(ctx context.Context, key string, s tracker.Small) (tracker.Answer, error)
}

// turn is what a member is to do next for something that it wants.
type turn uint8

const (
	// alone: there is nobody to agree with, or no use in it. Go on as without a swarm.
	alone turn = iota
	// lead: go upstream, for all.
	lead
	// ask: get it from those who hold it.
	ask
	// believe: it was heard a moment ago what the tag means.
	believe
)

// pursuit is something small that this member wants, as its tracker sees it. It belongs to one goroutine.
type pursuit struct {
	m     *Mirror
	key   string
	small tracker.Small
	// within is how old a tag's meaning may be, when the pursuit began.
	within time.Duration
	began  time.Time
	until  time.Time
	turns  int
}

// swarmKey is what the tracker knows something as. Those who may not share it do not wait for each other either.
func swarmKey(key, scope string) string { return tracker.Apart(key, scope) }

// pursue begins to agree with others on content of that size, which is negative if it is not known.
func (m *Mirror) pursue(r request, dgst digest.Digest, size int64) *pursuit {
	return m.pursueAs(swarmKey(dgst.String(), r.grant.Scope()), size)
}

func (m *Mirror) pursueAs(key string, size int64) *pursuit {
	now := time.Now()
	p := &pursuit{m: m, key: key, began: now, until: now.Add(waitForOthers)}
	p.small = tracker.Small{Announce: swarm.Announce{Size: size}, Renew: renewWithin}
	return p
}

// pursueTag begins to agree with others on who asks what a tag means, unless that was heard within a time.
func (m *Mirror) pursueTag(name string, within time.Duration) *pursuit {
	now := time.Now()
	p := &pursuit{m: m, key: name, began: now, until: now.Add(waitForTag), within: within}
	p.small = tracker.Small{Announce: swarm.Announce{Size: 1}, Renew: renewWithin}
	return p
}

// next asks what to do until there is something to do.
func (p *pursuit) next(ctx context.Context) (turn, tracker.Answer) {
	if p.m.cfg.Tracker == nil {
		return alone, tracker.Answer{}
	}
	ctx, cancel := context.WithDeadline(ctx, p.until)
	defer cancel()
	for {
		p.small.Within = p.within + time.Since(p.began)
		asked := time.Now()
		answer, err := p.m.cfg.Tracker.AnnounceSmall(ctx, p.key, p.small)
		if err != nil {
			p.m.cfg.Log.V(1).Info("not agreed with others", "key", p.key, "reason", err.Error())
			return alone, answer
		}
		p.small.Stalled = false
		if t, ok := p.turn(&answer); ok {
			return t, answer
		}
		if time.Since(asked) > polled {
			continue // That was the wait.
		}
		// The tracker had no room to let us wait there.
		if sleep.For(ctx, min(max(answer.Again, 10*time.Millisecond), time.Second)) != nil {
			return alone, answer
		}
	}
}

// turn reads an answer. It is not ok to wait.
func (p *pursuit) turn(a *tracker.Answer) (turn, bool) {
	if a.Value != nil {
		return believe, true
	}
	for _, l := range a.Leases {
		if l.From == "" {
			return lead, true
		}
		if _, ok := a.Members[l.From]; ok {
			a.Holders = append([]swarm.ID{l.From}, a.Holders...)
		}
	}
	switch {
	case len(a.Holders) > 0:
		if p.turns++; p.turns > maxTurns {
			return alone, true
		}
		return ask, true
	case a.NoSource:
		return alone, true
	}
	return alone, false
}

// holders gives those that an answer names.
func holders(a tracker.Answer) []discovery.Member {
	var members []discovery.Member
	seen := map[swarm.ID]bool{}
	for _, id := range a.Holders {
		if m, ok := a.Members[id]; ok && !seen[id] {
			seen[id] = true
			members = append(members, m)
		}
	}
	return members
}

// led is a lease on the whole of something small.
type led struct {
	outcome chan func(ctx context.Context)
}

// lead keeps the lease alive, on the mirror's own time, until it is told how the fetch ended.
func (p *pursuit) lead() *led {
	l := &led{outcome: make(chan func(context.Context), 1)}
	p.m.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, leadWithin)
		defer cancel()
		renew := time.NewTicker(renewEvery)
		defer renew.Stop()
		for {
			select {
			case <-renew.C:
				// That this member still tries counts as progress: upstream's own deadlines end what gets nowhere.
				p.small.Fetched++
				p.m.tell(ctx, p.key, p.small)
			case end := <-l.outcome:
				end(ctx)
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return l
}

// end says how the fetch went, in the background: nobody waits for it here.
func (l *led) end(tell func(ctx context.Context)) { l.outcome <- tell }

// tell says something to a tracker.
func (m *Mirror) tell(ctx context.Context, key string, s tracker.Small) {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	if _, err := m.cfg.Tracker.AnnounceSmall(ctx, key, s); err != nil {
		m.cfg.Log.V(1).Info("tracker not told", "key", key, "reason", err.Error())
	}
}

// hold tells the tracker of content as soon as this node holds it, or that it does not.
func (m *Mirror) hold(ctx context.Context, key string, dgst digest.Digest, size int64) {
	a := swarm.Announce{Size: size, Complete: true}
	if !m.keeps(ctx, dgst) {
		a = swarm.Announce{Size: size, Leaving: true}
	}
	m.tell(ctx, key, tracker.Small{Announce: a})
}

// keeps waits for content that has arrived to be in a store that other members are served from: the cache takes a
// moment to keep it, and where it keeps nothing, the runtime does.
func (m *Mirror) keeps(ctx context.Context, dgst digest.Digest) bool {
	ctx, cancel := context.WithTimeout(ctx, keptWithin)
	defer cancel()
	for step := time.Millisecond; ; step = min(2*step, 100*time.Millisecond) {
		if m.memory.Contains(dgst) {
			return true
		}
		if a, err := m.local.open(ctx, dgst); err == nil {
			a.Blob.Close()
			return true
		}
		if sleep.For(ctx, step) != nil {
			m.unkept.Store(time.Now().Add(keepsNothingFor).UnixNano())
			return false
		}
	}
}

// failed is what a tracker is told of a fetch from upstream that failed.
func failed(size int64, err error) tracker.Small {
	a := swarm.Announce{Size: size}
	switch {
	case errors.Is(err, context.Canceled):
		a.Leaving = true
	case errors.Is(err, upstream.ErrNotFound), errors.Is(err, upstream.ErrDenied):
		a.Upstream = swarm.Refused
	default:
		a.Upstream = swarm.Failing // Also where the rate is limited: another member's may not be.
	}
	return tracker.Small{Announce: a}
}

// spawn runs fn on the mirror's own time. After Close it does not.
func (m *Mirror) spawn(fn func(ctx context.Context)) {
	m.starting.Lock()
	defer m.starting.Unlock()
	if m.ctx.Err() == nil {
		m.running.Go(func() { fn(m.ctx) })
	}
}

// Package object has the members of a cluster get together what is one piece: a tag's meaning, a manifest, or a small
// blob.
//
// Who wants such an object announces that to its tracker, and is told what to do: to go upstream for all, to ask those
// who hold it, or to wait. Whoever goes upstream renews that word until it says how it went. What a way of getting the
// object is, and who may have it, is for those who use this; blobs of many pieces have sessions.
package object

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/sleep"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
)

const (
	// waitForOthers bounds how long another member may take to get an object, as long as it lives. Then this one goes
	// upstream by itself.
	waitForOthers = 5 * time.Second
	// waitForTag is the same for tags. It leaves some of the time that upstream has to confirm a tag.
	waitForTag = 2500 * time.Millisecond
	// tellWithin bounds one word to a tracker that nobody waits for.
	tellWithin = 2 * time.Second
	// keptWithin is how long content may take from its last byte until this node holds it. One that does not hold what it
	// got has others wait in vain, and takes no part in this for keepsNothingFor.
	keptWithin      = time.Second
	keepsNothingFor = time.Minute
	// polled is what an announce takes at least if it waited at the tracker for as long as it may.
	polled = 500 * time.Millisecond
	// maxTurns bounds how often holders may fail one after the other.
	maxTurns = 4
)

// Tracker knows what members want and have.
type Tracker interface {
	AnnounceSmall(ctx context.Context, key string, s tracker.Small) (tracker.Answer, error)
}

// Config is what objects need.
type Config struct {
	// Tracker reaches the trackers. Nil where there are none: then there is nobody to agree with.
	Tracker Tracker
	// Held tells whether content is where other members are served from. It is asked again until it is, for a second.
	Held func(ctx context.Context, dgst digest.Digest) bool
	Log  logr.Logger
}

// Objects are what this member gets together with others. It is safe for concurrent use.
type Objects struct {
	cfg    Config
	ctx    context.Context // What is told in the background lives on it.
	cancel context.CancelFunc
	// starting is held while something begins to run.
	starting sync.Mutex
	running  sync.WaitGroup
	// unkept is until when this node is taken for one that keeps nothing, in Unix nanoseconds.
	unkept atomic.Int64
}

// New makes objects. Nothing runs yet.
func New(cfg Config) *Objects {
	o := &Objects{cfg: cfg}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

// Close ends what still runs, and waits for it.
func (o *Objects) Close() {
	o.starting.Lock()
	o.cancel()
	o.starting.Unlock()
	o.running.Wait()
}

// spawn runs fn on the objects' own time. After Close it does not.
func (o *Objects) spawn(fn func(ctx context.Context)) {
	o.starting.Lock()
	defer o.starting.Unlock()
	if o.ctx.Err() == nil {
		o.running.Go(func() { fn(o.ctx) })
	}
}

// Agree tells whether members agree on who goes upstream for a blob of that size: where it is one piece, and this node
// keeps what it gets.
func (o *Objects) Agree(size int64) bool {
	return o.cfg.Tracker != nil && size >= 0 && size < swarm.OnePiece && time.Now().UnixNano() >= o.unkept.Load()
}

// Turn is what a member is to do next for an object that it wants.
type Turn uint8

const (
	// Alone says that there is nobody to agree with, or no use in it. Go on as without a swarm.
	Alone Turn = iota
	// Lead says to go upstream, for all. Object.Lead keeps others waiting until it is told how that went.
	Lead
	// Ask says to get it from the holders.
	Ask
	// Believe says that somebody has heard a moment ago what the tag means.
	Believe
)

// Answer is what belongs to a turn.
type Answer struct {
	Holders []discovery.Member
	Value   *tracker.TagValue
}

// Object is something that this member wants. It belongs to one goroutine.
type Object struct {
	objects *Objects
	key     string // As the tracker knows it.
	scope   string
	small   tracker.Small
	// within is how old a tag's meaning may be, when it began.
	within time.Duration
	began  time.Time
	until  time.Time
	turns  int
}

// Content begins to agree on content of that size, which is negative if it is not known. The scope names those who may
// share it: members of others do not wait for each other.
func (o *Objects) Content(dgst digest.Digest, scope string, size int64) *Object {
	return o.begin(dgst.String(), scope, swarm.Announce{Size: size}, waitForOthers)
}

// Tag begins to agree on who asks what a tag means, by its full name, unless that was heard within a time.
func (o *Objects) Tag(name, scope string, within time.Duration) *Object {
	x := o.begin(name, scope, swarm.Announce{Size: 1}, waitForTag)
	x.within = within
	return x
}

func (o *Objects) begin(key, scope string, a swarm.Announce, wait time.Duration) *Object {
	now := time.Now()
	return &Object{
		objects: o, key: tracker.Apart(key, scope), scope: scope, began: now, until: now.Add(wait),
		small: tracker.Small{Announce: a, Renew: renewWithin},
	}
}

// Next asks the tracker what to do until there is something to do.
func (x *Object) Next(ctx context.Context) (Turn, Answer) {
	o := x.objects
	if o.cfg.Tracker == nil {
		return Alone, Answer{}
	}
	ctx, cancel := context.WithDeadline(ctx, x.until)
	defer cancel()
	for {
		x.small.Within = x.within + time.Since(x.began)
		asked := time.Now()
		heard, err := o.cfg.Tracker.AnnounceSmall(ctx, x.key, x.small)
		if err != nil {
			o.cfg.Log.V(1).Info("not agreed with others", "key", x.key, "reason", err.Error())
			return Alone, Answer{}
		}
		x.small.Stalled = false
		if turn, answer, ok := x.turn(heard); ok {
			return turn, answer
		}
		if time.Since(asked) > polled {
			continue // That was the wait.
		}
		// The tracker had no room to let us wait there.
		if sleep.For(ctx, min(max(heard.Again, 10*time.Millisecond), time.Second)) != nil {
			return Alone, Answer{}
		}
	}
}

// turn reads what a tracker says. It is not ok to wait.
func (x *Object) turn(heard tracker.Answer) (Turn, Answer, bool) {
	if heard.Value != nil {
		return Believe, Answer{Value: heard.Value}, true
	}
	holders := heard.Holders
	for _, l := range heard.Leases {
		if l.From == "" {
			return Lead, Answer{}, true
		}
		if _, ok := heard.Members[l.From]; ok {
			holders = append([]swarm.ID{l.From}, holders...)
		}
	}
	switch {
	case len(holders) > 0:
		if x.turns++; x.turns > maxTurns {
			return Alone, Answer{}, true
		}
		return Ask, Answer{Holders: named(holders, heard.Members)}, true
	case heard.NoSource:
		return Alone, Answer{}, true
	}
	return Alone, Answer{}, false
}

// named gives the members that are named, each once.
func named(ids []swarm.ID, known map[swarm.ID]discovery.Member) (members []discovery.Member) {
	seen := map[swarm.ID]bool{}
	for _, id := range ids {
		if m, ok := known[id]; ok && !seen[id] {
			seen[id] = true
			members = append(members, m)
		}
	}
	return members
}

// Missed notes that the holders did not give it. The next turn is another one.
func (x *Object) Missed() { x.small.Stalled = true }

// Got tells the tracker, in the background, that content came from a holder, once this node holds it.
func (x *Object) Got(dgst digest.Digest, size int64) {
	x.objects.spawn(func(ctx context.Context) { x.objects.hold(ctx, x.key, dgst, size) })
}

// hold tells the tracker of content as soon as this node holds it, or that it does not.
func (o *Objects) hold(ctx context.Context, key string, dgst digest.Digest, size int64) {
	a := swarm.Announce{Size: size, Complete: true}
	if !o.keeps(ctx, dgst) {
		a = swarm.Announce{Size: size, Leaving: true}
	}
	o.tell(ctx, key, tracker.Small{Announce: a})
}

// keeps waits for content that has arrived to be held: a cache takes a moment to keep it, and where it keeps nothing,
// the runtime does.
func (o *Objects) keeps(ctx context.Context, dgst digest.Digest) bool {
	ctx, cancel := context.WithTimeout(ctx, keptWithin)
	defer cancel()
	for step := time.Millisecond; ; step = min(2*step, 100*time.Millisecond) {
		if o.cfg.Held(ctx, dgst) {
			return true
		}
		if sleep.For(ctx, step) != nil {
			o.unkept.Store(time.Now().Add(keepsNothingFor).UnixNano())
			return false
		}
	}
}

// tell says something to a tracker.
func (o *Objects) tell(ctx context.Context, key string, s tracker.Small) {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	if _, err := o.cfg.Tracker.AnnounceSmall(ctx, key, s); err != nil {
		o.cfg.Log.V(1).Info("tracker not told", "key", key, "reason", err.Error())
	}
}

package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
)

// tickEvery is how often the picker is looked after when nothing happens.
const tickEvery = 100 * time.Millisecond

// session is one flight among those of the other members. One goroutine, run, owns all that is below events; all others
// do the waiting, and send it what came of it.
type session struct {
	x         *Sessions
	task      *flight.Guided
	named     Members // In whose name members are asked for pieces.
	ref       reference.Reference
	key       string // What the tracker and the neighbours know the flight as.
	log       logr.Logger
	peers     *peer.Client // Asks with what the sources say of whom the blob is for.
	ctx       context.Context
	cancel    context.CancelFunc
	work      sync.WaitGroup // Every goroutine that uses task.
	events    chan func(now time.Time)
	news      chan struct{} // The first bytes have arrived. Never waited for by those who tell.
	hasher    *hasher
	origin    *origin
	following atomic.Int64
	fetched   atomic.Int64 // Bytes that leases have brought.
	heard     atomic.Bool  // The tracker has answered.
	open      atomic.Bool  // There are leases left, for which later layers of the image wait.

	size       int64 // Negative until known.
	layout     swarm.Layout
	download   *swarm.Download // Nil while there is nobody to exchange pieces with.
	members    map[swarm.ID]discovery.Member
	neighbours map[swarm.ID]*neighbour
	followers  map[swarm.ID]*follower
	requests   map[request]context.CancelFunc
	leases     []*lease
	failed     map[swarm.ID]time.Time // When a lease from there failed.
	wrong      map[swarm.ID]bool      // Those who sent wrong bytes.
	late       map[swarm.ID]int       // How often something of theirs came too late.
	hashes     map[int]swarm.Hash     // Of the pieces that are here.
	announce   announcing
	progress   progress
	turn       turn
	upstream   standing
	ended      error // Why the flight goes on by itself.
	over       bool
}

// request is a piece that was asked of a member.
type request struct {
	member swarm.ID
	piece  int
}

func newSession(x *Sessions, task *flight.Guided, named Members, ref reference.Reference) *session {
	p := &session{
		x: x, task: task, named: named, ref: ref, key: tracker.Apart(task.Digest().String(), task.Scope()),
		log:    x.cfg.Log.WithValues("digest", task.Digest()),
		events: make(chan func(time.Time)), news: make(chan struct{}, 1), size: -1,
		members: map[swarm.ID]discovery.Member{}, neighbours: map[swarm.ID]*neighbour{},
		followers: map[swarm.ID]*follower{}, requests: map[request]context.CancelFunc{}, failed: map[swarm.ID]time.Time{},
		wrong: map[swarm.ID]bool{}, late: map[swarm.ID]int{}, hashes: map[int]swarm.Hash{},
		progress: progress{patience: x.cfg.Patience}, turn: x.newTurn(reference.Reference{Repository: ref.Repository, Digest: task.Digest()}, task.Scope()),
	}
	p.hasher, p.origin = newHasher(p), &origin{p}
	p.peers = x.cfg.Peers.For(named.Claim())
	p.ctx, p.cancel = context.WithCancel(context.Background()) // run ends it with its own context, and then waits.
	return p
}

// run is the session's life: until its context ends, or it is no use any more.
func (p *session) run(ctx context.Context) error {
	defer p.work.Wait()
	defer p.cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	p.learn(time.Now())
	for !p.over {
		select {
		case <-ctx.Done():
			p.part(p.task.Verified())
			return context.Cause(ctx)
		case <-p.x.ctx.Done():
			p.part(false)
			return errors.New("sessions are closed")
		case event := <-p.events:
			event(time.Now())
		case <-p.news:
			p.learn(time.Now())
			continue // The picker hears of pieces when they are hashed.
		case <-timer.C:
			p.tick(time.Now())
		}
		timer.Reset(p.pause(time.Now()))
	}
	p.part(false)
	return p.ended
}

// post sends an event to run, and tells whether it was taken.
func (p *session) post(event func(now time.Time)) bool {
	select {
	case p.events <- event:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// leave has the flight go on by itself.
func (p *session) leave(err error) {
	if !p.over {
		p.over, p.ended = true, err
	}
}

// part ends the streams of followers; all says that they may ask for any piece from now on, and so they are told the
// hashes of those that they were not told of.
func (p *session) part(all bool) {
	for _, f := range p.followers {
		if all {
			f.rest(p.hashes)
		}
		f.end(all)
	}
}

// pause is how long nothing needs to be done if nothing happens.
func (p *session) pause(now time.Time) time.Duration {
	next := now.Add(tickEvery)
	if p.turn.waiting && now.Sub(p.turn.began) < knocks {
		next = now.Add(knocks / 30)
	}
	if p.download != nil {
		if due := p.download.Next(); !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	if due := p.announce.due; due.Before(next) && !p.announce.running() {
		next = due
	}
	return max(next.Sub(now), time.Millisecond)
}

// tick does what is due.
func (p *session) tick(now time.Time) {
	p.learn(now)
	p.wait(now)
	switch p.progress.look(now, p.task.Arrived(), p.fetched.Load(), len(p.leases) > 0) {
	case stalled:
		p.announce.stalled = true
		p.report(now)
	case hopeless:
		if len(p.leases) == 0 { // What reads a source has a deadline of its own.
			p.leave(fmt.Errorf("nothing arrived for %v", p.x.cfg.Patience.GiveUp))
			return
		}
	case moving:
	}
	p.hurry(now)
	if p.download != nil {
		if off := p.task.Reading(); off >= 0 {
			p.download.Reading(off)
		}
		p.do(now, p.download.Tick(now))
	}
	if !now.Before(p.announce.due) {
		p.tell(now)
	}
}

// errMoved says that the blob has another size than the session believed, so that the flight belongs to another swarm.
var errMoved = errors.New("the blob has another size")

// learn notices that the blob's size is known, or that it was heard. What a source says counts more than that.
func (p *session) learn(now time.Time) {
	size, _ := p.task.Size()
	switch {
	case p.size < 0 && believed(p.task) >= 0:
		p.sized(now, believed(p.task))
	case size >= 0 && p.size >= 0 && size != p.size:
		p.leave(fmt.Errorf("%w: %d bytes, and not %d as was said", errMoved, size, p.size))
	}
}

// sized takes the blob's size, which others may be waiting for. Who follows and believes in another one is left.
func (p *session) sized(now time.Time, size int64) {
	p.size, p.layout = size, swarm.NewLayout(size)
	for _, f := range p.followers {
		if !p.agrees(f) {
			f.end(false)
			p.unfollowed(now, f)
		}
	}
	p.hasher.start(p.layout)
	p.engage(now)
	p.report(now)
}

// engage makes the picker, once there is somebody to exchange pieces with. Whoever gets the blob alone reads the
// leases, and has no need for pieces.
func (p *session) engage(now time.Time) {
	if p.download != nil || p.size < 0 || !p.company() {
		return
	}
	p.download = swarm.NewDownload(swarm.DownloadConfig{Self: p.x.cfg.Self, Zone: p.x.cfg.Zone, Layout: p.layout, Rand: random()})
	p.work.Go(p.hasher.run)
	p.hasher.need()
	for _, f := range p.followers {
		p.do(now, p.download.Followed(now, swarm.Neighbour{Member: f.id, Zone: f.zone}))
	}
	if p.announce.last != nil {
		p.do(now, p.download.Assigned(now, p.announce.last.Assignment))
	}
}

// company tells whether there is anybody to exchange pieces with.
func (p *session) company() bool {
	last := p.announce.last
	return len(p.followers) > 0 || last != nil && (len(last.Neighbours) > 0 || len(p.leasesOf(last)) == 0 && len(last.Holders) > 0)
}

// member gives what is known of a member.
func (p *session) member(id swarm.ID) (discovery.Member, bool) {
	if m, ok := p.members[id]; ok {
		return m, true
	}
	return p.x.cfg.Announcer.Member(id)
}

package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
)

const (
	// announceEvery is how often the tracker hears from us if it does not say, and reportEvery at most.
	announceEvery = time.Second
	reportEvery   = 50 * time.Millisecond
	// polling is after how long an announce of who has nothing to do is taken for one that the tracker keeps open
	// until it has news: then it is made again when there is something to tell.
	polling = 300 * time.Millisecond
	// mostReading is how many of the ranges that are being read a tracker is told of. They are two, but for a moment.
	mostReading = 8
	// recovers is for how long a failure of upstream counts that may pass.
	recovers = 5 * time.Second
)

// announcing is the state of the conversation with the tracker.
type announcing struct {
	due     time.Time
	began   time.Time
	cancel  context.CancelFunc // Of the announce that has no answer yet.
	again   bool               // There was more to tell meanwhile.
	stalled bool
	last    *tracker.Answer
}

func (a *announcing) running() bool { return a.cancel != nil }

// report announces now, or soon if that was a moment ago.
func (p *session) report(now time.Time) {
	a := &p.announce
	if !a.running() {
		if due := a.began.Add(reportEvery); due.Before(a.due) {
			a.due = due
		}
		return
	}
	a.again = true
	if (a.last == nil || a.last.Wait) && now.Sub(a.began) >= polling {
		a.cancel()
	}
}

// tell announces, unless that is going on.
func (p *session) tell(now time.Time) {
	a := &p.announce
	if a.running() {
		return
	}
	what := p.statement(now)
	a.began, a.again, a.stalled = now, false, false
	a.due = now.Add(announceEvery)
	ctx, cancel := context.WithCancel(p.ctx)
	a.cancel = cancel
	p.work.Go(func() {
		answer, err := p.x.cfg.Announcer.Announce(ctx, p.key, what)
		abandoned := ctx.Err() != nil
		cancel()
		p.post(func(now time.Time) { p.answered(now, answer, err, abandoned) })
	})
}

// statement is what the tracker is told.
func (p *session) statement(now time.Time) swarm.Announce {
	a := swarm.Announce{
		Member: p.x.cfg.Self, Zone: p.x.cfg.Zone, Size: p.size, Upstream: p.upstream.now(now, p.task.Sources()),
		Sequential: p.upstream.sequential, Stalled: p.announce.stalled, Waiting: p.turn.waiting, Fetched: p.fetched.Load(),
	}
	for _, l := range p.leases[:min(len(p.leases), mostReading)] {
		if r := l.reading(); r.end < 0 || r.start < r.end {
			a.Reading = append(a.Reading, swarm.Lease{Start: r.start, End: r.end, From: r.from})
		}
	}
	if p.download != nil {
		a.Partners = p.download.Partners()
	}
	for piece := 0; p.size >= 0 && piece < p.layout.Pieces(); piece++ {
		if start, end := p.layout.Span(piece); p.task.Has(start, end) {
			a.Have.Add(piece)
		}
	}
	return a
}

// answered takes the tracker's answer. Without one from the start on there is no swarm; later, what is known of the
// neighbours is as good as it was.
func (p *session) answered(now time.Time, answer tracker.Answer, err error, abandoned bool) {
	a := &p.announce
	a.cancel = nil
	switch {
	case abandoned:
		a.due = now
		return
	case err != nil && a.last == nil:
		p.leave(fmt.Errorf("announce: %w", err))
		return
	case err != nil:
		p.log.V(1).Info("tracker does not answer", "reason", err.Error())
		return
	}
	a.last = &answer
	if answer.Again > 0 {
		a.due = now.Add(min(answer.Again, 5*announceEvery))
	}
	if answer.Wait {
		a.due = a.began.Add(reportEvery)
	}
	if a.again {
		a.due = now
	}
	for id, m := range answer.Members {
		p.members[id] = m
	}
	if answer.NoSource {
		p.noSource()
		return
	}
	if p.size < 0 && answer.Size >= 0 {
		p.sized(now, answer.Size)
	}
	p.opened(now, &answer)
	if p.download == nil {
		p.engage(now) // Before the leases, so that their bytes are hashed as they come.
	} else {
		p.do(now, p.download.Assigned(now, answer.Assignment))
	}
	p.follow(now, p.leasesOf(&answer))
}

// leasesOf gives what an answer has us read. Of what is one piece, or of unknown size, holders are told without leases:
// unknown to the tracker, for its size may have become known here since. Where there is nothing to read by what
// somebody said, all of it is read: only a source knows that there is nothing.
func (p *session) leasesOf(answer *tracker.Answer) []swarm.Lease {
	leases := slices.Clone(answer.Leases)
	if len(leases) == 0 && len(answer.Holders) > 0 && (answer.Size < 0 || p.layout.Pieces() == 1) {
		leases = []swarm.Lease{{End: p.size, From: answer.Holders[0]}}
	}
	for i, l := range leases {
		if l.Start == l.End {
			leases[i].End = -1
		}
	}
	return leases
}

// noSource ends the flight if it has tried all there is itself; else it tries by itself.
func (p *session) noSource() {
	if p.upstream.refusal != nil {
		p.leave(fmt.Errorf("%w: %w", flight.ErrNowhere, p.upstream.refusal))
		return
	}
	p.leave(errors.New("no member has it, and those that asked upstream were refused"))
}

// standing is what this member knows of going upstream for the blob.
type standing struct {
	state      swarm.Upstream
	since      time.Time
	sequential bool
	refusal    error
	tried      int // How many ways upstream there were when it refused.
}

// now gives the state as the tracker is to hear it.
func (s *standing) now(now time.Time, sources []flight.Source) swarm.Upstream {
	ways := waysUpstream(sources)
	if ways == 0 {
		return swarm.Never
	}
	if s.state == swarm.Refused && ways > s.tried { // Another client has come, with credentials of its own.
		s.state, s.refusal = swarm.Able, nil
	}
	if (s.state == swarm.Failing || s.state == swarm.Busy) && now.Sub(s.since) >= recovers {
		s.state = swarm.Able
	}
	return s.state
}

// failed takes note of a failure.
func (s *standing) failed(now time.Time, err error, ways int) {
	s.since = now
	switch {
	case errors.Is(err, upstream.ErrNotFound), errors.Is(err, upstream.ErrDenied):
		s.state, s.refusal, s.tried = swarm.Refused, err, ways
	case errors.Is(err, upstream.ErrRateLimited):
		s.state = swarm.Busy
	default:
		s.state = swarm.Failing
	}
}

// waysUpstream counts upstream once for each client that has credentials of its own.
func waysUpstream(sources []flight.Source) (n int) {
	for _, src := range sources {
		if src.Trusted() {
			n++
		}
	}
	return n
}

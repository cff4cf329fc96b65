package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// lease is a range that this member reads for everybody: one read after the other of what is missing there.
type lease struct {
	from   swarm.ID
	start  int64
	cancel context.CancelFunc
	moved  mark
	hash   running // Belongs to the goroutine that reads.
	ways   int     // Upstream, among its sources.

	mu   sync.Mutex
	end  int64 // Negative for the blob's end.
	pull *flight.Pull
	skip context.CancelFunc // Goes on to the next source. Nil if upstream is what is being read.
}

// move moves the end: a nearer one cuts what is being read, a further one is for the next read.
func (l *lease) move(end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
	if l.pull != nil && end >= 0 {
		l.pull.Cut(end)
	}
}

func (l *lease) reading() reading {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := reading{l.from, l.start, l.end}
	if l.pull != nil {
		r.start = l.pull.Position()
	}
	return r
}

// next prepares to read the first part that is missing; nil if nothing is.
func (l *lease) next(task *flight.Guided, arrived func(off int64, b []byte)) *flight.Pull {
	l.mu.Lock()
	defer l.mu.Unlock()
	from, to := l.start, l.end
	if size, _ := task.Size(); size >= 0 {
		if to < 0 || to > size {
			to = size
		}
		if from, to = task.Missing(l.start, to); from >= to {
			l.pull = nil
			return nil
		}
	}
	l.pull = task.Pull(from, to, arrived)
	return l.pull
}

// reading is how far a lease is.
type reading struct {
	from       swarm.ID
	start, end int64 // What is still to be read; a negative end is the blob's.
}

// reconcile compares what is being read with what is to be. It gives for each reading its new end, or stop, and the
// leases of which nothing is being read.
func reconcile(running []reading, want []swarm.Lease) (ends []int64, starts []swarm.Lease) {
	read := make([]bool, len(want))
	for _, r := range running {
		end := int64(stop)
		for i, w := range want {
			if !read[i] && w.From == r.from && w.Start <= r.start && (w.End < 0 || r.start < w.End) {
				end, read[i] = w.End, true
				break
			}
		}
		ends = append(ends, end)
	}
	for i, w := range want {
		if !read[i] {
			starts = append(starts, w)
		}
	}
	return ends, starts
}

// stop, as an end, says that nothing is to be read any more.
const stop = -2

// leaseRetry is for how long nothing is read from where a lease failed.
const leaseRetry = time.Second

// follow reads exactly these leases.
func (p *session) follow(now time.Time, want []swarm.Lease) {
	var running []reading
	for _, l := range p.leases {
		running = append(running, l.reading())
	}
	ends, starts := reconcile(running, want)
	for i, end := range ends {
		if end == stop {
			p.leases[i].cancel()
		} else {
			p.leases[i].move(end)
		}
	}
	for _, w := range starts {
		if at, ok := p.failed[w.From]; !ok || now.Sub(at) >= leaseRetry {
			p.fetch(w)
		}
	}
}

// fetch starts to read a lease.
func (p *session) fetch(what swarm.Lease) {
	ctx, cancel := context.WithCancel(p.ctx)
	l := &lease{from: what.From, start: what.Start, end: what.End, cancel: cancel}
	p.leases = append(p.leases, l)
	p.log.V(1).Info("lease begins", "from", string(what.From), "start", what.Start, "end", what.End)
	sources := p.sources(what.From)
	l.ways = waysUpstream(sources)
	p.work.Go(func() {
		defer cancel()
		err := p.read(ctx, l, sources)
		if ctx.Err() != nil {
			err = context.Canceled
		}
		p.post(func(now time.Time) { p.leaseEnded(now, l, err) })
	})
}

// sources gives where to read a lease: upstream, or the holder, then other members, and upstream if none of them can.
func (p *session) sources(from swarm.ID) []flight.Source {
	var members, upstream []flight.Source
	member, known := p.member(from)
	for _, src := range p.task.Sources() {
		some, asks := src.(Members)
		switch {
		case src.Trusted():
			upstream = append(upstream, src)
		case asks && known && !p.wrong[from] && p.late[from] < tooLate:
			members = append(members, some.From(member))
		}
	}
	switch {
	case from == "":
		return upstream
	case p.upstream.refusal != nil:
		return members
	}
	return append(members, upstream...)
}

// tooLate is how often a member may be late before no lease is read from it, if there is another way.
const tooLate = 2

// sharers is by how many leases a holder's link is shared, about: two each of eight members.
const sharers = 16

// hurry goes on to the next source with leases whose holder sends next to nothing, also if it sends as much to the
// others. Alone, there is nothing to compare it with.
func (p *session) hurry(now time.Time) {
	if p.download == nil {
		return
	}
	for _, l := range p.leases {
		l.mu.Lock()
		if l.skip != nil && l.pull != nil && l.moved.look(now, l.pull.Position(), p.progress.least()/sharers) >= p.x.cfg.Patience.Stalled {
			p.late[l.from] = tooLate
			l.skip()
		}
		l.mu.Unlock()
	}
}

var errNoSource = errors.New("there is nothing to read it from")

// read reads what is missing of a lease from the first source that can give it.
func (p *session) read(ctx context.Context, l *lease, sources []flight.Source) error {
	last := errNoSource
	for _, src := range sources {
		err := p.readFrom(ctx, l, src)
		if err == nil || ctx.Err() != nil {
			return err
		}
		last = fmt.Errorf("%s: %w", src, err)
		p.probe(ctx, l, src)
		p.log.V(1).Info("lease can't be read", "source", src.String(), "reason", err.Error())
	}
	return last
}

// probed is how much of a blob's start is read to learn its size.
const probed = 256 << 10

// probe reads the start of a blob of which another range could not be read: the blob may end before that, if its size
// is only what somebody said.
func (p *session) probe(ctx context.Context, l *lease, src flight.Source) {
	if size, _ := p.task.Size(); size >= 0 || l.start == 0 || ctx.Err() != nil {
		return
	}
	if err := p.task.Pull(0, probed, nil).Run(ctx, src); err != nil {
		p.log.V(1).Info("blob's start can't be read either", "source", src.String(), "reason", err.Error())
		return
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// readFrom reads what is missing of a lease from one source.
func (p *session) readFrom(ctx context.Context, l *lease, src flight.Source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	if l.skip = nil; !src.Trusted() {
		l.skip = cancel
	}
	l.mu.Unlock()
	for {
		pull := l.next(p.task, func(off int64, b []byte) { p.arrived(l, off, b) })
		if pull == nil {
			return nil
		}
		if err := pull.Run(ctx, src); err != nil {
			return err
		}
		if size, _ := p.task.Size(); size == 0 {
			return nil
		}
	}
}

// arrived notes bytes of a lease. It does not wait. By the first of them the flight knows the blob's size.
func (p *session) arrived(l *lease, off int64, b []byte) {
	first := p.fetched.Add(int64(len(b))) == int64(len(b))
	p.hasher.arrived(&l.hash, off, b)
	if !first {
		return
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// leaseEnded takes note that a lease was read, or could not be.
func (p *session) leaseEnded(now time.Time, l *lease, err error) {
	for i, other := range p.leases {
		if other == l {
			p.leases = append(p.leases[:i], p.leases[i+1:]...)
			break
		}
	}
	from, result := "member", "done"
	if l.from == "" {
		from = "upstream"
		p.upstream.sequential = p.upstream.sequential || p.task.Sequential()
	}
	switch {
	case err == nil && l.from == "":
		p.upstream.state = swarm.Able
	case err == nil:
	case errors.Is(err, context.Canceled):
		result = "released"
		member, _ := p.member(l.from)
		p.log.Info("lease ends early", "peer", string(l.from), "address", member.PeerAPI, "start", l.start,
			"reason", "the tracker has us read elsewhere, or the blob is here")
	case l.from == "":
		result = "failed"
		p.upstream.failed(now, err, l.ways)
		p.log.Info("lease failed", "from", "upstream", "start", l.start, "reason", err.Error())
	default:
		result = "failed"
		p.announce.stalled = true
		member, _ := p.member(l.from)
		p.log.Info("lease failed", "peer", string(l.from), "address", member.PeerAPI, "start", l.start, "reason", err.Error())
	}
	if result == "failed" {
		p.failed[l.from] = now
	}
	p.x.leases.WithLabelValues(from, result).Inc()
	p.report(now)
}

// origin is who pieces came from, as the flight sees it. They were checked, so that they need not be held back.
type origin struct{ p *session }

// Verified implements flight.Witness: it was asked for in the name of a source, which hears of it.
func (o *origin) Verified() {
	if w, ok := o.p.named.(flight.Witness); ok {
		w.Verified()
	}
}

// Trusted implements flight.Origin.
func (o *origin) Trusted() bool { return false }

// Kind implements flight.Origin.
func (o *origin) Kind() string { return "peer" }

// String implements flight.Origin.
func (o *origin) String() string { return "the swarm" }

// Blame implements flight.Origin: which member began with a wrong piece can't be told, so that none is asked for now.
func (o *origin) Blame(err error) {
	o.p.x.doubted.Add(o.p.task.Digest(), time.Now())
	o.p.log.Error(err, "the swarm had wrong bytes", "ref", o.p.ref.String())
}

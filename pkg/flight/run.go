package flight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

const (
	// maxStreams bounds the connections that one flight reads from at once: the first, and those that readers far
	// ahead of it made it open.
	maxStreams = 4
	// jump is how far ahead of a stream a reader waits for it rather than have another opened there. It is about what
	// a connection brings in the time that a new one takes to get going.
	jump = 8 << 20
	// withheld is how many of the last bytes wait for the verdict on the digest. One would do for safety; a blob of
	// fewer arrives whole before its first byte leaves, so that small content is never sent in part.
	withheld = 32 << 10
	// bufferSize is how much of a stream is read before it is written and shown to the readers.
	bufferSize = 256 << 10
	// enough is how much of it is worth reading on for, if that need not wait. A read that takes longer than atOnce had
	// to: that of a TLS record, of 16 KiB, takes a tenth of it.
	enough = 64 << 10
	atOnce = 100 * time.Microsecond
)

// flight is one blob on its way. Everything below mu is guarded by it; what is above never changes.
type flight struct {
	group  *Group
	scope  string
	owner  content.Owner
	dgst   digest.Digest
	log    logr.Logger
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // Closed when streams are needed no more: all has arrived, or the flight has failed.

	mu      sync.Mutex
	changed chan struct{} // Closed at the next change. Made by who waits.
	readers int
	grace   *time.Timer // Runs while there are no readers.

	sources    []Source
	dead       int // The sources before this one have failed. There is always one that has not, or err is set.
	hint       SizeHint
	size       int64 // Negative until somebody has said it, together with which the spool is made.
	said       word  // Whose word the size is.
	epoch      int   // Counts how often the flight has started over.
	spool      Spool
	generation int // Counts the spools, of which a flight that starts over has several.
	have       spans
	writing    []span   // Bytes that somebody writes, and nobody else may.
	pieces     []*Piece // Those that are written as they come.
	streams    []*stream
	working    sync.WaitGroup    // The goroutines of streams, and of what guides the flight.
	sequential bool              // A source does not do ranges: one stream only.
	guide      *Guided           // Says what to read; nil if the flight decides by itself.
	waits      map[*Reader]int64 // The readers that wait, and for which byte.

	from    []Origin    // Those that bytes have come from.
	given   bool        // Readers have had some of the bytes.
	holding bool        // Nothing is given out before the verdict.
	hold    *time.Timer // Ends that.

	verified bool
	landed   bool // The spool can't be opened any more.
	err      error
}

// stream is one goroutine that reads a span. The end of the span moves towards it when another takes over from there.
type stream struct {
	pos, end int64
	epoch    int     // Of the flight when it began.
	guide    *Guided // Who asked for it; nil if the flight itself did.
	// arrived, if not nil, is told of bytes that are there now, as they came. It must not wait, nor keep them.
	arrived func(off int64, p []byte)
}

func newFlight(g *Group, dgst digest.Digest, hint SizeHint, sources []Source) *flight {
	f := &flight{
		group: g, dgst: dgst, hint: hint, size: -1, sources: slices.Clone(sources), readers: 1,
		log: g.cfg.Log.WithValues("digest", dgst), done: make(chan struct{}),
		waits: map[*Reader]int64{},
	}
	f.ctx, f.cancel = context.WithCancelCause(g.ctx)
	return f
}

// run is the flight's life. It returns when no goroutine of the flight is left and the spool is someone else's.
func (f *flight) run() {
	began := time.Now()
	f.begin()
	select {
	case <-f.done:
	case <-f.ctx.Done():
		f.fail(context.Cause(f.ctx))
	}
	f.cancel(nil)
	f.working.Wait()
	err := f.land()
	f.group.forget(f)
	if swarm := f.group.cfg.Swarm; swarm != nil {
		swarm.Landed(f.scope, f.dgst, f.size, err == nil && f.group.cfg.Held(f.dgst))
	}

	f.mu.Lock()
	for _, timer := range []*time.Timer{f.grace, f.hold} {
		if timer != nil {
			timer.Stop()
		}
	}
	f.mu.Unlock()
	f.group.ended.WithLabelValues(result(err)).Inc()
	switch {
	case err == nil:
		f.log.V(1).Info("blob arrived", "bytes", f.size, "duration", time.Since(began))
	case errors.Is(err, ErrMismatch):
		f.log.Error(err, "blob refused", "bytes", f.size)
	default:
		f.log.V(1).Info("flight ended", "reason", err.Error())
	}
}

// land gives the spool to the store or back.
func (f *flight) land() error {
	f.mu.Lock()
	err, spool := f.err, f.spool
	f.mu.Unlock()
	if spool == nil {
		return err
	}
	if err != nil {
		f.group.forget(f) // Whoever comes next starts clean, also while the spool is still being given back.
	} else if cerr := spool.Commit(context.WithoutCancel(f.ctx), ""); cerr != nil {
		// The readers have everything already, so that Commit may take as long as the disk needs. It is not for the
		// group's end to stop it: what arrived is worth keeping.
		f.log.Info("blob not kept", "reason", cerr.Error())
	}
	f.mu.Lock()
	f.landed = true
	f.mu.Unlock()
	if derr := spool.Discard(); derr != nil {
		f.log.Error(derr, "let go of spool")
	}
	return err
}

func result(err error) string {
	switch {
	case err == nil:
		return "complete"
	case errors.Is(err, ErrMismatch):
		return "mismatch"
	case errors.Is(err, ErrAbandoned), errors.Is(err, ErrClosed):
		return "abandoned"
	}
	return "failed"
}

// begin starts to read: as the swarm says, or from the start and in order.
func (f *flight) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.group.cfg.Swarm == nil {
		f.start(0, -1)
		return
	}
	f.guide = newGuided(f)
	f.working.Go(f.guide.run)
}

// start opens a stream for [off, end); end is negative while the size is unknown. Called with mu held.
func (f *flight) start(off, end int64) {
	s := &stream{pos: off, end: end, epoch: f.epoch}
	f.streams = append(f.streams, s)
	f.working.Add(1)
	go func() {
		defer f.working.Done()
		f.fill(s)
	}()
}

// fill reads the stream's span and then whatever else is missing and nobody reads.
func (f *flight) fill(s *stream) {
	buf := make([]byte, bufferSize)
	for {
		if err := f.copySpan(s, buf); err != nil {
			f.fail(err)
			return
		}
		if !f.next(s) {
			return
		}
	}
}

// copySpan reads the stream's span from the first source that has not failed yet.
func (f *flight) copySpan(s *stream, buf []byte) error {
	for {
		src, index, pos, end := f.plan(s)
		if src == nil || pos == end {
			return nil
		}
		err := f.copyFrom(f.ctx, src, s, pos, end, buf)
		switch {
		case err == nil: // At the end of the span, which plan sees.
		case f.ctx.Err() != nil:
			return context.Cause(f.ctx)
		case errors.Is(err, errOver):
			return nil
		case errors.As(err, &fatal{}):
			return err
		case !f.giveUp(index, s, fmt.Errorf("%s: %w", src, err)):
			return nil
		}
	}
}

// fatal is an error that no other source can mend.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// plan says what the stream reads next, and from whom. No source: the flight is over.
func (f *flight) plan(s *stream) (src Source, index int, pos, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || s.epoch != f.epoch {
		return nil, 0, 0, 0
	}
	return f.sources[f.dead], f.dead, s.pos, s.end
}

// giveUp marks the source as failed and, if it was the last, the flight; but not while another stream still gets
// bytes from it, which then reads on alone. It tells whether the stream goes on.
func (f *flight) giveUp(index int, s *stream, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case s.epoch != f.epoch:
		return false
	case s.end >= 0 && f.have.endFrom(s.pos) >= s.end: // It is needed no more.
		f.remove(s)
		return false
	case f.dead != index: // Another stream has seen it first.
	case f.dead < len(f.sources)-1:
		f.dead++
		f.log.V(1).Info("next source", "reason", err.Error(), "source", f.sources[f.dead].String())
	case len(f.streams) > 1:
		f.sequential = true
		f.remove(s)
		for _, other := range f.streams { // Who was cut short for this one reads on.
			if other.end == s.pos {
				other.end = s.end
			}
		}
		f.log.V(1).Info("one connection less", "reason", err.Error())
		return false
	default:
		f.end(err)
	}
	return true
}

// remove takes a stream off the list; what it has not read is a gap then. Called with mu held.
func (f *flight) remove(s *stream) {
	if i := slices.Index(f.streams, s); i >= 0 {
		f.streams = slices.Delete(f.streams, i, i+1)
	}
}

// copyFrom reads one source from pos until the span ends or the source fails.
func (f *flight) copyFrom(ctx context.Context, src Source, s *stream, pos, end int64, buf []byte) error {
	in, err := src.Open(ctx, pos, end)
	if err != nil {
		return err
	}
	defer in.Close()
	left, err := f.opened(src, in, s)
	if err != nil || in.Size() == 0 {
		return err
	}
	for left > 0 {
		n, rerr := gather(in, buf[:min(left, int64(len(buf)))])
		if n > 0 {
			f.group.count(src, in, n)
			if left, err = f.arrived(src, s, buf[:n]); err != nil || left <= 0 {
				return err
			}
		}
		switch {
		case rerr == io.EOF:
			return io.ErrUnexpectedEOF // Before the end of the span.
		case rerr != nil:
			return rerr
		}
	}
	return nil // Another stream has begun here.
}

// gather reads what is there: once, and on for as long as reads need not wait. What a source gives faster than it is
// dealt with comes to the lock, the disk and the readers in larger parts so; what is slower is shown as it comes.
func gather(in io.Reader, buf []byte) (n int, err error) {
	for n < min(enough, len(buf)) && err == nil {
		began := time.Now()
		var m int
		m, err = in.Read(buf[n:])
		n += m
		if m == 0 || time.Since(began) > atOnce {
			break
		}
	}
	return n, err
}

// next finds a gap for a stream that is through with its span. There is none: the stream ends.
func (f *flight) next(s *stream) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && f.size >= 0 && slices.Contains(f.streams, s) {
		if gap := f.gap(0); gap.start < gap.end {
			s.pos, s.end = gap.start, gap.end
			return true
		}
	}
	f.remove(s)
	return false
}

// gap gives the first span at or after off that neither has arrived nor is being read. Called with mu held.
func (f *flight) gap(off int64) span {
	taken := append(spans(nil), f.have...)
	for _, s := range f.streams {
		taken.add(s.pos, s.end)
	}
	return taken.gapFrom(off, f.size)
}

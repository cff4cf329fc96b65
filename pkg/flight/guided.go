package flight

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Swarm says what flights read from whom, together with other members that get the same blob.
type Swarm interface {
	// Guide guides a flight until ctx ends or it can help no more: then the flight reads what is missing by itself, as
	// it does without a swarm. An error that wraps ErrNowhere ends the flight instead. When Guide returns, none of its
	// goroutines uses the flight any more.
	Guide(ctx context.Context, g *Guided) error
	// Landed is told of every flight's end, by its scope: whether the store has the whole blob now.
	Landed(scope string, dgst digest.Digest, size int64, held bool)
}

var (
	// ErrNowhere says that the blob can't be had, so that it is no use to try without the swarm.
	ErrNowhere = errors.New("nobody has it")
	// errUnguided says that the flight is guided no more.
	errUnguided = errors.New("flight is not guided any more")
)

// Guided is a flight as a swarm sees it. It is safe for concurrent use.
type Guided struct {
	f      *flight
	ctx    context.Context
	cancel context.CancelFunc
}

func newGuided(f *flight) *Guided {
	g := &Guided{f: f}
	g.ctx, g.cancel = context.WithCancel(f.ctx)
	return g
}

// run has the swarm guide the flight, and has it go on by itself after that.
func (g *Guided) run() {
	defer g.cancel()
	err := g.f.group.cfg.Swarm.Guide(g.ctx, g)
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.guide != g {
		return // It started over without us.
	}
	f.guide = nil
	switch {
	case f.err != nil || f.verified || f.ctx.Err() != nil:
		return
	case errors.Is(err, ErrNowhere):
		f.end(err)
		return
	case err != nil:
		f.log.V(1).Info("flight goes on by itself", "reason", err.Error())
	}
	if f.size < 0 {
		f.start(0, -1)
	} else if gap := f.gap(0); gap.start < gap.end {
		f.start(gap.start, gap.end)
	}
}

// Digest gives the blob's digest.
func (g *Guided) Digest() digest.Digest { return g.f.dgst }

// Scope gives those that the flight is for, as Join has it.
func (g *Guided) Scope() string { return g.f.scope }

// Sources gives what the flight can read from by itself. There may be more from one call to the next.
func (g *Guided) Sources() []Source {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return slices.Clone(g.f.sources)
}

// Size gives the blob's size; negative while it is unknown. What the hint says is only that.
func (g *Guided) Size() (size int64, hint SizeHint) {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.f.size, g.f.hint
}

// Begin makes the spool for a blob that the swarm believes to have that many bytes. A source that says otherwise is
// believed more.
func (g *Guided) Begin(size int64) error {
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.guide != g || f.err != nil:
		return errUnguided
	case f.size == size:
		return nil
	case f.size >= 0:
		return fmt.Errorf("somebody says that the blob has %d bytes, but it has %d", size, f.size)
	}
	err := f.create(size)
	if err != nil {
		f.end(err)
	}
	return err
}

// Sequential tells whether a source was found to start at the beginning only.
func (g *Guided) Sequential() bool {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.f.sequential
}

// Verified tells whether the whole has arrived and is what its digest says.
func (g *Guided) Verified() bool {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.f.verified
}

// Has tells whether the bytes of [start, end) have arrived.
func (g *Guided) Has(start, end int64) bool {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.f.have.endFrom(start) >= end
}

// Arrived counts the bytes that are here.
func (g *Guided) Arrived() (n int64) {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	for _, s := range g.f.have {
		n += s.end - s.start
	}
	return n
}

// Missing gives the first run of bytes in [start, end) that has not arrived and that no Pull reads; empty if there is
// none.
func (g *Guided) Missing(start, end int64) (from, to int64) {
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.guide != g {
		return end, end
	}
	gap := f.gap(start)
	return min(gap.start, end), min(gap.end, end)
}

// Reading gives the byte that the reader who is behind all others waits for; negative if none waits.
func (g *Guided) Reading() int64 {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	least := int64(-1)
	for _, off := range g.f.waits {
		if least < 0 || off < least {
			least = off
		}
	}
	return least
}

// ReadAt reads bytes that have arrived.
func (g *Guided) ReadAt(p []byte, off int64) (int, error) {
	f := g.f
	f.mu.Lock()
	spool, there := f.spool, f.guide == g && f.have.endFrom(off) >= off+int64(len(p))
	f.mu.Unlock()
	if !there {
		return 0, errUnguided
	}
	return spool.ReadAt(p, off)
}

// Pull is one read of a source that a swarm asked for: from its start on, in order. Its end can be moved towards it.
type Pull struct {
	g *Guided
	s *stream
}

// Pull prepares to read [start, end); a negative end is the blob's. arrived, if not nil, is told of what is there now,
// with the bytes as they came, which it must not keep. The caller calls Run.
func (g *Guided) Pull(start, end int64, arrived func(off int64, p []byte)) *Pull {
	p := &Pull{g: g, s: &stream{pos: start, end: end, guide: g, arrived: arrived}}
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	p.s.epoch = g.f.epoch
	g.f.streams = append(g.f.streams, p.s)
	return p
}

// Cut moves the end to at, or to where the read is if that is further. An end that is nearer stays.
func (p *Pull) Cut(at int64) {
	p.g.f.mu.Lock()
	defer p.g.f.mu.Unlock()
	if p.s.end < 0 || at < p.s.end {
		p.s.end = max(at, p.s.pos)
	}
}

// Position gives the next byte.
func (p *Pull) Position() int64 {
	p.g.f.mu.Lock()
	defer p.g.f.mu.Unlock()
	return p.s.pos
}

// Run reads from a source until the end, and returns why it could not.
func (p *Pull) Run(ctx context.Context, src Source) error {
	f := p.g.f
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.remove(p.s)
	}()
	f.mu.Lock()
	pos, end, guided := p.s.pos, p.s.end, f.guide == p.g
	f.mu.Unlock()
	if !guided {
		return errUnguided
	}
	if pos == end {
		return nil
	}
	err := f.copyFrom(ctx, src, p.s, pos, end, make([]byte, bufferSize))
	if errors.As(err, &fatal{}) {
		f.fail(err)
	}
	return err
}

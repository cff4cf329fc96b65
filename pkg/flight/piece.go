package flight

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// maxSpare bounds the bytes of pieces that wait in memory for their verdict, of all flights.
const maxSpare = 32 << 20

// errOvertaken says that somebody else brought the piece first.
var errOvertaken = errors.New("somebody else was faster")

// Piece is a part of the blob that is on its way from another member. It is shown to readers when it is known to be
// right, and written to the spool before that if nobody else writes there: then it has no need for memory, however
// large pieces are. It belongs to one goroutine.
type Piece struct {
	g          *Guided
	spool      Spool
	start, end int64
	pos        int64
	claimed    spans  // What is written to the spool as it comes; nothing if memory is used.
	memory     []byte // Nil if it isn't.

	mu      sync.Mutex // Guards what follows, and the writing.
	revoked bool       // Another has brought the same bytes. What still comes goes nowhere.
	kept    bool
}

// Piece prepares for the bytes of [start, end). The caller calls Drop in the end, and Keep before that. Nil without an
// error: they are here.
func (g *Guided) Piece(start, end int64) (*Piece, error) {
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.guide != g || f.spool == nil {
		return nil, errUnguided
	}
	if f.have.endFrom(start) >= end {
		return nil, nil
	}
	p := &Piece{g: g, spool: f.spool, start: start, end: end, pos: start}
	p.claimed = f.claim(start, end)
	if len(p.claimed) == 1 && p.claimed[0] == (span{start, end}) {
		f.pieces = append(f.pieces, p)
		return p, nil
	}
	f.settle(p.claimed, false)
	p.claimed = nil
	if !f.group.spare.TryAcquire(end - start) {
		return nil, fmt.Errorf("%d bytes of pieces are in memory already", maxSpare)
	}
	p.memory = make([]byte, 0, end-start)
	return p, nil
}

// Write implements io.Writer. More bytes than there are in the piece are refused.
func (p *Piece) Write(b []byte) (n int, err error) {
	if int64(len(b)) > p.end-p.pos {
		return 0, io.ErrShortWrite
	}
	if p.memory != nil {
		p.memory = append(p.memory, b...)
		p.pos += int64(len(b))
		return len(b), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.revoked {
		return 0, errOvertaken
	}
	n, err = p.spool.WriteAt(b, p.pos)
	p.pos += int64(n)
	return n, err
}

// Keep makes the piece part of what has arrived: all of it was written, and it is right. far says that it came from
// another zone.
func (p *Piece) Keep(src Origin, far bool) error {
	err := p.keep(src)
	if err == nil {
		p.g.f.group.tally(src, int(p.end-p.start), far)
	}
	p.Drop()
	return err
}

func (p *Piece) keep(src Origin) error {
	p.mu.Lock()
	revoked := p.revoked
	p.kept = true
	p.mu.Unlock()
	if revoked {
		return errOvertaken
	}
	f := p.g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.guide != p.g {
		return errUnguided
	}
	if f.said.by == nil {
		f.said.by = src
		f.notify()
	}
	if p.memory == nil {
		p.settle(src)
		return nil
	}
	for f.have.endFrom(p.start) < p.end {
		p.overtake()
		if f.guide != p.g {
			return errUnguided
		}
		if p.claimed = f.claim(p.start, p.end); len(p.claimed) == 0 {
			if err := f.wait(p.g.ctx); err != nil { // A lease's bytes are being written, or another copy of this piece.
				return err
			}
			continue
		}
		f.mu.Unlock()
		err := p.flush()
		f.mu.Lock()
		if err != nil {
			p.settle(nil)
			return err
		}
		p.settle(src)
	}
	return nil
}

// flush writes what is in memory to where it has a claim.
func (p *Piece) flush() error {
	for _, c := range p.claimed {
		if _, err := p.spool.WriteAt(p.memory[c.start-p.start:c.end-p.start], c.start); err != nil {
			return fmt.Errorf("write spool: %w", err)
		}
	}
	return nil
}

// overtake takes their claims from copies of the same bytes that are still on their way. Called with the flight's mu
// held, which it lets go of meanwhile: a write may have to end.
func (p *Piece) overtake() {
	f := p.g.f
	var others []*Piece
	for _, o := range f.pieces {
		if o.start < p.end && p.start < o.end {
			others = append(others, o)
		}
	}
	f.mu.Unlock()
	others = slices.DeleteFunc(others, func(o *Piece) bool { return !o.revoke() })
	f.mu.Lock()
	for _, o := range others {
		o.settle(nil)
	}
}

// revoke ends the writing, unless all is written and kept.
func (p *Piece) revoke() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked = !p.kept
	return p.revoked
}

// Drop lets go of the piece.
func (p *Piece) Drop() {
	f := p.g.f
	f.mu.Lock()
	p.settle(nil)
	f.mu.Unlock()
	if p.memory != nil {
		p.memory = nil
		f.group.spare.Release(p.end - p.start)
	}
}

// settle gives up the claim, which counts for nothing in a flight that has started over. from is who the bytes are from
// that are there now, or nil if they aren't. Called with the flight's mu held.
func (p *Piece) settle(from Origin) {
	f := p.g.f
	if i := slices.Index(f.pieces, p); i >= 0 {
		f.pieces = slices.Delete(f.pieces, i, i+1)
	}
	if f.guide == p.g && len(p.claimed) > 0 {
		if from != nil {
			f.credit(from)
		}
		f.settle(p.claimed, from != nil)
	}
	p.claimed = nil
}

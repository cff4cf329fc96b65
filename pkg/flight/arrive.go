package flight

import (
	"fmt"
	"slices"
)

// Distant is a Stream that may tell that its bytes come from another zone.
type Distant interface {
	// Distant tells where the bytes of the last read came from.
	Distant() bool
}

func (g *Group) count(src Origin, in Stream, n int) {
	far, ok := in.(Distant)
	g.tally(src, n, ok && far.Distant())
}

func (g *Group) tally(src Origin, n int, far bool) {
	g.bytes.WithLabelValues(src.Kind()).Add(float64(n))
	if far {
		g.far.Add(float64(n))
	}
}

// opened takes note of what a source says of the blob, and makes the spool if it is the first to say. It tells how much
// of the stream's span is left to read.
func (f *flight) opened(src Source, in Stream, s *stream) (left int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.over(s); err != nil {
		return 0, err
	}
	if !in.Ranged() {
		f.sequential = true
	}
	if err := f.sized(src, in.Size()); err != nil {
		return 0, err
	}
	if f.size == 0 {
		f.credit(src) // That there are none is all that there is to send.
	}
	if s.end < 0 || s.end > f.size { // What was believed of the size may have been more than there is.
		s.end = f.size
	}
	if s.guide == nil {
		f.takeOver(s)
	}
	return max(0, s.end-s.pos), nil
}

// over tells why a stream is of no use any more, if it is not. Called with mu held.
func (f *flight) over(s *stream) error {
	switch {
	case s.epoch != f.epoch:
		return errOver
	case s.guide != nil && s.guide != f.guide:
		return errUnguided
	}
	return nil
}

// takeOver ends the other streams where this one begins. Not before it is open: it may be refused, when there is no
// other left to read on. Called with mu held.
func (f *flight) takeOver(s *stream) {
	if f.have.endFrom(s.pos) > s.pos {
		s.end = s.pos // Another was here before.
	}
	for _, other := range f.streams {
		if other.pos < s.pos && s.pos < other.end {
			other.end = s.pos
		}
	}
}

// credit notes who bytes have come from. Called with mu held.
func (f *flight) credit(src Origin) {
	if !slices.Contains(f.from, src) {
		f.from = append(f.from, src)
	}
}

// create makes the spool for a blob of that size. Called with mu held.
func (f *flight) create(size int64) error {
	spool, err := f.group.cfg.Create(f.owner, f.dgst, size)
	if err != nil {
		return fatal{fmt.Errorf("make spool: %w", err)}
	}
	f.spool, f.size = spool, size // Whose word that is, the caller knows.
	f.generation++
	generation := f.generation
	f.working.Go(func() { f.verify(spool, generation) })
	f.notify()
	return nil
}

// claim gives the bytes of [start, end) that have not arrived and that nobody writes, and keeps others from writing
// them until settle. What has arrived is never written again: it may have been hashed, and read. Called with mu held.
func (f *flight) claim(start, end int64) spans {
	taken := f.have
	if len(f.writing) > 0 {
		taken = slices.Clone(f.have)
		for _, w := range f.writing {
			taken.add(w.start, w.end)
		}
	}
	var free spans
	for start < end {
		gap := taken.gapFrom(start, end)
		if gap.start >= gap.end {
			break
		}
		free = append(free, gap)
		start = gap.end
	}
	f.writing = append(f.writing, free...)
	return free
}

// settle gives up a claim; written says that the bytes are there now. Called with mu held.
func (f *flight) settle(claimed spans, written bool) {
	for _, c := range claimed {
		if i := slices.Index(f.writing, c); i >= 0 {
			f.writing = slices.Delete(f.writing, i, i+1)
		}
		if written {
			f.have.add(c.start, c.end)
		}
	}
	f.notify()
}

// arrived stores bytes of a stream and shows them to the readers. It tells how much of the stream's span is left.
func (f *flight) arrived(src Source, s *stream, p []byte) (left int64, err error) {
	f.mu.Lock()
	if err := f.over(s); err != nil {
		f.mu.Unlock()
		return 0, err
	}
	off, spool := s.pos, f.spool
	p = p[:min(int64(len(p)), s.end-off)]
	var todo spans
	if len(p) > 0 {
		todo = f.claim(off, off+int64(len(p)))
	}
	f.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for _, t := range todo {
		if _, err = spool.WriteAt(p[t.start-off:t.end-off], t.start); err != nil {
			err = fatal{fmt.Errorf("write spool: %w", err)}
			break
		}
	}
	f.mu.Lock()
	if s.epoch != f.epoch {
		f.mu.Unlock()
		return 0, errOver // Also if the spool that it wrote to is gone.
	}
	if f.over(s) == nil {
		if err == nil && len(todo) > 0 {
			f.credit(src)
		}
		f.settle(todo, err == nil)
	}
	s.pos += int64(len(p))
	left = s.end - s.pos
	f.mu.Unlock()
	if err == nil && s.arrived != nil {
		s.arrived(off, p)
	}
	return left, err
}

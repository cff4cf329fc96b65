package flight

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
)

// notify wakes everybody who waits for a change. Called with mu held.
func (f *flight) notify() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// wait waits for the next change. Called with mu held, and returns with it held.
func (f *flight) wait(ctx context.Context) error {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enter counts one more reader. A flight that has failed or landed takes none.
func (f *flight) enter(hint SizeHint, sources []Source) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.landed {
		return false
	}
	f.readers++
	if !f.hint.told {
		f.hint = hint
	}
	if f.grace != nil {
		f.grace.Stop()
		f.grace = nil
	}
	for _, src := range sources {
		if !slices.ContainsFunc(f.sources, func(s Source) bool { return s.String() == src.String() }) {
			f.sources = append(f.sources, src)
		}
	}
	return true
}

// leave counts one reader less. The last one leaves the flight its grace.
func (f *flight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	if f.readers > 0 || f.err != nil || f.verified {
		return
	}
	if f.group.cfg.Grace < 0 {
		f.abandon()
		return
	}
	var grace *time.Timer
	grace = time.AfterFunc(f.group.cfg.Grace, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.grace == grace && f.readers == 0 {
			f.abandon()
		}
	})
	f.grace = grace
}

// abandon ends a flight without readers. From here on nobody can board it. Called with mu held.
func (f *flight) abandon() {
	f.end(ErrAbandoned)
	f.cancel(ErrAbandoned)
}

// board waits until the blob's size can be told, and opens the spool for a reader.
func (f *flight) board(ctx context.Context, r *Reader) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.err == nil && !f.settled() {
		if f.spool != nil { // Open by the time that the flight lands: what is not kept is nowhere else then.
			r.size = f.size
			if err := f.open(r); err != nil {
				return err
			}
		}
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
	if f.err != nil {
		return f.failure()
	}
	r.size = f.size
	return f.open(r)
}

// open opens the spool for a reader that has none, or one of a flight that has started over. Called with mu held.
func (f *flight) open(r *Reader) error {
	switch {
	case r.file != nil && r.generation == f.generation:
		return nil
	case f.landed:
		return errLanded
	}
	file, err := f.spool.Reader()
	if err != nil {
		return fmt.Errorf("open spool of %s: %w", f.dgst, err)
	}
	if r.file != nil {
		r.file.Close() // It was only read.
	}
	r.file, r.generation = file, f.generation
	return nil
}

// failure is what readers are told. Called with mu held.
func (f *flight) failure() error {
	if f.err == nil {
		return nil
	}
	return &Error{Digest: f.dgst, Err: f.err}
}

// available waits until at least one byte at off may be given out, and tells how many may be from there on. At the
// blob's end it waits for the verdict. The reader has the right file then.
func (f *flight) available(ctx context.Context, r *Reader, off int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.err != nil {
			return 0, f.failure()
		}
		if err := f.fits(r); err != nil {
			return 0, err
		}
		if f.verified {
			r.given = true
			return f.size - off, f.open(r)
		}
		if n := min(f.have.endFrom(off), f.size-withheld) - off; n > 0 && !f.holding {
			f.given, r.given = true, true
			return n, f.open(r)
		}
		f.hurry(off)
		f.waits[r] = off
		err := f.wait(ctx)
		delete(f.waits, r)
		if err != nil {
			return 0, err
		}
	}
}

// hurry opens a stream at off if none will be there soon and nobody else decides that. Called with mu held, once the
// size is known.
func (f *flight) hurry(off int64) {
	if f.guide != nil || f.size < 0 || f.sequential || len(f.streams) >= maxStreams || f.have.endFrom(off) > off || off >= f.size {
		return
	}
	end := f.gap(off).end
	for _, s := range f.streams {
		if s.pos <= off && off < s.end {
			if off-s.pos <= jump {
				return
			}
			end = s.end
		}
	}
	f.start(off, end)
}

// Reader is a blob that may still be arriving, as one reader sees it. It belongs to one goroutine.
type Reader struct {
	flight     *flight
	size       int64
	file       *os.File
	generation int
	given      bool // It has had some of the bytes, of this generation.
}

var _ content.Arriving = (*Reader)(nil)

// Size implements content.Blob.
func (r *Reader) Size() int64 { return r.size }

// MediaType implements content.Blob. A blob on its way has none.
func (r *Reader) MediaType() string { return "" }

// Source implements content.Arriving.
func (r *Reader) Source() string {
	r.flight.mu.Lock()
	defer r.flight.mu.Unlock()
	var kinds []string
	for _, src := range r.flight.from {
		if !slices.Contains(kinds, src.Kind()) {
			kinds = append(kinds, src.Kind())
		}
	}
	return strings.Join(kinds, "+")
}

// Ready implements content.Arriving.
func (r *Reader) Ready(ctx context.Context, off int64) error {
	_, err := r.flight.available(ctx, r, off)
	return err
}

// CopyRange implements content.Blob. Bytes that have arrived go from the spool to w by sendfile(2).
func (r *Reader) CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	if err := content.CheckRange(r.Size(), off, n); err != nil {
		return 0, err
	}
	var written int64
	for written < n {
		available, err := r.flight.available(ctx, r, off+written)
		if err != nil {
			return written, err
		}
		m, err := content.CopyFile(ctx, w, r.file, off+written, min(available, n-written))
		written += m
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close leaves the flight. Closing twice does nothing more.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	r.flight.leave()
	return err
}

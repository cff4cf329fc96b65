package flight

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// SizeHint is what somebody said of a blob's size who need not know it: a manifest, which anybody can write, or another
// reader. It says how a blob may be got, and is never held against what a source says. The zero value is none.
type SizeHint struct {
	bytes int64
	told  bool
}

// Hint makes a hint. There is none in a negative size.
func Hint(size int64) SizeHint { return SizeHint{bytes: max(size, 0), told: size >= 0} }

// Bytes gives the size, if there is a hint.
func (h SizeHint) Bytes() (size int64, ok bool) { return h.bytes, h.told }

// word is who said a blob's size, and so whose word it stands and falls with.
type word struct {
	by      Origin // Nil is the swarm, which believes it and has not heard it from a source.
	trusted bool
}

// errOver says that the flight has started over since a stream began.
var errOver = errors.New("the flight has started over")

// sized takes in what a source says of the blob's size. It fails if another's word counts more: upstream's more than
// that of members, and among equals that of who said it first, until it has failed. A flight that learns that its size
// was wrong starts over with the right one. Called with mu held.
func (f *flight) sized(src Source, size int64) error {
	if f.size == size {
		if f.said.by == nil || src.Trusted() && !f.said.trusted {
			f.said = word{src, src.Trusted()}
			f.notify()
		}
		return nil
	}
	if f.size >= 0 && (f.verified || !f.yields(src)) {
		return fmt.Errorf("says the blob has %d bytes, but it has %d", size, f.size)
	}
	over := f.size >= 0
	if over {
		f.log.Info("blob starts over", "reason", "its size turned out to be another one", "size", size, "said", f.size, "source", src.String())
		guided := f.group.cfg.Swarm != nil && f.guide != nil
		f.reset()
		f.from = nil
		defer f.resume(guided)
	}
	if err := f.create(size); err != nil {
		var cause fatal
		if over {
			f.end(err)
		} else if !src.Trusted() && errors.As(err, &cause) {
			return cause.error // There may be room for what the blob is by another's word.
		}
		return err
	}
	f.said = word{src, src.Trusted()}
	if !src.Trusted() && size <= f.group.cfg.HoldBytes && f.group.cfg.HoldFor > 0 {
		f.holding = true
		f.hold = time.AfterFunc(f.group.cfg.HoldFor, f.release)
	}
	if over {
		return errOver
	}
	return nil
}

// yields tells whether the word that the flight goes by counts less than that of a source.
func (f *flight) yields(src Source) bool {
	switch {
	case f.said.by == nil:
		return true
	case src.Trusted() != f.said.trusted:
		return src.Trusted()
	}
	i := slices.IndexFunc(f.sources, func(o Source) bool { return o.String() == f.said.by.String() })
	if i < 0 {
		return f.guide == nil // It was the swarm's, or of a member that the swarm named.
	}
	return i < f.dead
}

// reset forgets all that has arrived, and ends who reads it. Called with mu held.
func (f *flight) reset() {
	if err := f.spool.Discard(); err != nil {
		f.log.Error(err, "let go of spool")
	}
	if f.hold != nil {
		f.hold.Stop()
	}
	if f.guide != nil {
		f.guide.cancel()
		f.guide = nil
	}
	f.have, f.spool, f.size, f.said, f.holding, f.given = nil, nil, -1, word{}, false, false
	f.writing, f.streams, f.pieces = nil, nil, nil // Whoever still reads has an epoch that is over.
	f.epoch++
}

// resume reads on after a reset. Called with mu held.
func (f *flight) resume(guided bool) {
	if f.err != nil {
		return
	}
	if guided {
		f.guide = newGuided(f)
		f.working.Go(f.guide.run)
		return
	}
	f.start(0, f.size)
}

// settled tells whether the size may be told to readers: a source has said it, and if that may be wrong and the flight
// waits for the verdict anyway, so does who wants to know the size. Called with mu held.
func (f *flight) settled() bool {
	return f.spool != nil && f.said.by != nil && (f.verified || !f.holding)
}

// fits fails if a reader was told something else than what the flight has found out since. It is cut short then: a
// part of one blob is never followed by a part of another. Called with mu held.
func (f *flight) fits(r *Reader) error {
	if f.size >= 0 && r.size != f.size {
		return &Error{Digest: f.dgst, Err: fmt.Errorf("it has %d bytes, and not %d as was said first", f.size, r.size)}
	}
	if r.given && r.generation != f.generation {
		return &Error{Digest: f.dgst, Err: errOver}
	}
	return nil
}

package flight

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// verify hashes what arrives, as it becomes whole from the start, and judges it at the end. It has a goroutine of its
// own because hashing takes as long as all the rest: the bytes come back from the spool, which is to say from memory.
func (f *flight) verify(spool Spool, generation int) {
	buf := make([]byte, bufferSize)
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.err == nil && f.generation == generation {
		end := f.have.endFrom(f.hashed)
		if f.hashed == f.size {
			f.judge()
			return
		}
		if end == f.hashed {
			if f.wait(f.ctx) != nil {
				return // It has ended, and says why elsewhere.
			}
			continue
		}
		part := buf[:min(end-f.hashed, int64(len(buf)))]
		off := f.hashed
		f.mu.Unlock()
		_, err := spool.ReadAt(part, off)
		if err == nil {
			_, _ = f.hasher.Write(part) // A hash never fails, by its documentation.
		}
		f.mu.Lock()
		if err != nil {
			f.end(fmt.Errorf("read spool at byte %d: %w", off, err))
			return
		}
		f.hashed += int64(len(part))
	}
}

// judge compares the digests when all bytes are there. Called with mu held.
func (f *flight) judge() {
	if got := digest.NewDigest(f.dgst.Algorithm(), f.hasher); got != f.dgst {
		f.mismatch(got)
		return
	}
	if f.err == nil && !f.verified {
		f.verified = true
		f.attest()
		f.notify()
		close(f.done)
	}
}

// maxGenerations bounds how often a flight starts over: as many liars as there may be in a row.
const maxGenerations = 8

// mismatch blames those whose bytes may be wrong. If nobody has had any of them, the flight starts over with the
// sources that are left. Called with mu held.
func (f *flight) mismatch(got digest.Digest) {
	var names []string
	again := false
	err := fmt.Errorf("%w: got %s", ErrMismatch, got)
	for _, src := range f.from {
		names = append(names, src.String())
		src.Blame(err)
		again = again || !src.Trusted()
	}
	if !again || f.given || f.generation >= maxGenerations {
		f.end(fmt.Errorf("%w from %s", err, strings.Join(names, ", ")))
		return
	}
	f.log.Info("blob starts over", "reason", err.Error(), "sources", names)
	if derr := f.spool.Discard(); derr != nil {
		f.log.Error(derr, "let go of spool")
	}
	if f.hold != nil {
		f.hold.Stop()
	}
	if f.guide != nil {
		f.guide.cancel()
		f.guide = nil
		f.dead = 0
		if slices.ContainsFunc(f.from, func(o Origin) bool { _, ok := o.(Source); return !ok }) {
			// Who of the swarm was wrong can't be told: those who are trusted are asked first now.
			f.sources = slices.SortedStableFunc(slices.Values(f.sources), func(a, b Source) int { return rank(a) - rank(b) })
		}
	}
	// Also the size is what the blamed ones said, and with it the spool.
	f.from, f.have, f.hashed, f.spool, f.size, f.holding = nil, nil, 0, nil, -1, false
	f.writing, f.streams = nil, nil // Whoever still reads writes into the old spool, and finds nothing to settle.
	f.hasher.Reset()
	f.start(0, -1)
}

// rank sorts sources that are trusted before the others.
func rank(src Source) int {
	if src.Trusted() {
		return 0
	}
	return 1
}

// release ends the holding back.
func (f *flight) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding = false
	f.notify()
}

// fail ends the flight for everybody, once.
func (f *flight) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(err)
}

// end is fail with mu held.
func (f *flight) end(err error) {
	if f.err != nil || f.verified {
		return
	}
	f.err = err
	f.notify()
	close(f.done)
}

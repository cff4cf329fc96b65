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
	hasher, hashed := f.dgst.Algorithm().Hash(), int64(0)
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.err == nil && f.generation == generation && f.spool == spool {
		end := f.have.endFrom(hashed)
		if hashed == f.size {
			f.judge(digest.NewDigest(f.dgst.Algorithm(), hasher))
			return
		}
		if end == hashed {
			if f.wait(f.ctx) != nil {
				return // It has ended, and says why elsewhere.
			}
			continue
		}
		part := buf[:min(end-hashed, int64(len(buf)))]
		f.mu.Unlock()
		_, err := spool.ReadAt(part, hashed)
		if err == nil {
			_, _ = hasher.Write(part) // A hash never fails, by its documentation.
		}
		f.mu.Lock()
		if err != nil {
			if f.generation == generation && f.spool == spool {
				f.end(fmt.Errorf("read spool at byte %d: %w", hashed, err))
			}
			return
		}
		hashed += int64(len(part))
	}
}

// judge compares the digests when all bytes are there. Called with mu held.
func (f *flight) judge(got digest.Digest) {
	if got != f.dgst {
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
	err := fmt.Errorf("%w: got %s", ErrMismatch, got)
	members := false
	for _, src := range f.from {
		names = append(names, src.String())
		src.Blame(err)
		members = members || !src.Trusted()
	}
	left := f.untried()
	if !members && len(left) == 0 || f.given || f.generation >= maxGenerations {
		f.end(fmt.Errorf("%w from %s", err, strings.Join(names, ", ")))
		return
	}
	f.log.Info("blob starts over", "reason", err.Error(), "sources", names)
	guided := f.guide != nil
	swarm := slices.ContainsFunc(f.from, func(o Origin) bool { _, ok := o.(Source); return !ok })
	f.reset()
	switch {
	case !members: // A registry sent wrong bytes. Another reader may have come with another one.
		f.sources, f.dead = left, 0
	case guided:
		f.dead = 0
	}
	if guided && swarm {
		// Who of the swarm was wrong can't be told: those who are trusted are asked first now.
		f.sources = slices.SortedStableFunc(slices.Values(f.sources), func(a, b Source) int { return rank(a) - rank(b) })
	}
	f.from = nil
	f.resume(false)
}

// untried gives the sources that have neither failed nor sent anything. Called with mu held.
func (f *flight) untried() []Source {
	return slices.DeleteFunc(slices.Clone(f.sources[f.dead:]), func(src Source) bool {
		return slices.ContainsFunc(f.from, func(o Origin) bool { return o.String() == src.String() })
	})
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

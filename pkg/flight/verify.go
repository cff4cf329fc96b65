package flight

import (
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// verify hashes what has arrived without a gap. p, which starts at off, is hashed from memory where it comes next; the
// rest is read back from the spool. The caller holds the hashing flag, which verify gives back.
func (f *flight) verify(p []byte, off int64) error {
	if off == f.hashed { // Only who holds the flag changes hashed.
		_, _ = f.hasher.Write(p) // A hash never fails, by its documentation.
		f.hashed += int64(len(p))
	}
	for {
		f.mu.Lock()
		end := f.have.endFrom(f.hashed)
		if f.hashed == end {
			f.hashing = false
			complete := f.hashed == f.size
			f.mu.Unlock()
			if complete {
				return f.judge()
			}
			return nil
		}
		spool := f.spool
		f.mu.Unlock()
		n, err := io.CopyBuffer(onlyWriter{f.hasher}, io.NewSectionReader(spool, f.hashed, end-f.hashed), make([]byte, bufferSize))
		f.hashed += n
		if err == nil && f.hashed < end {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fatal{fmt.Errorf("read spool at byte %d: %w", f.hashed, err)}
		}
	}
}

// onlyWriter hides everything of a writer but Write.
type onlyWriter struct{ io.Writer }

// judge compares the digests when all bytes are there.
func (f *flight) judge() error {
	got := digest.NewDigest(f.dgst.Algorithm(), f.hasher)
	f.mu.Lock()
	defer f.mu.Unlock()
	if got != f.dgst {
		return f.mismatch(got)
	}
	if f.err == nil && !f.verified {
		f.verified = true
		f.notify()
		close(f.done)
	}
	return nil
}

// maxGenerations bounds how often a flight starts over: as many liars as there may be in a row.
const maxGenerations = 8

// mismatch blames those whose bytes may be wrong. If nobody has had any of them, the flight starts over with the
// sources that are left; it is the calling stream that then finds everything missing. Called with mu held.
func (f *flight) mismatch(got digest.Digest) error {
	var names []string
	again := false
	err := fmt.Errorf("%w: got %s", ErrMismatch, got)
	for _, src := range f.from {
		names = append(names, src.String())
		src.Blame(err)
		again = again || !src.Trusted()
	}
	if !again || f.given || f.generation >= maxGenerations {
		return fatal{fmt.Errorf("%w from %s", err, strings.Join(names, ", "))}
	}
	f.log.Info("blob starts over", "reason", err.Error(), "sources", names)
	if derr := f.spool.Discard(); derr != nil {
		f.log.Error(derr, "let go of spool")
	}
	// Also the size is what the blamed ones said, and with it the spool.
	if f.hold != nil {
		f.hold.Stop()
	}
	f.holding = false
	f.from, f.have, f.hashed, f.spool, f.size, f.startOver = nil, nil, 0, nil, -1, true
	f.hasher.Reset()
	return nil
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

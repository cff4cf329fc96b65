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
		f.mu.Unlock()
		n, err := io.CopyBuffer(onlyWriter{f.hasher}, io.NewSectionReader(f.spool, f.hashed, end-f.hashed), make([]byte, bufferSize))
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
	if got != f.dgst {
		return fatal{fmt.Errorf("%w: got %s from %s", ErrMismatch, got, f.sourceNames())}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && !f.verified {
		f.verified = true
		f.notify()
		close(f.done)
	}
	return nil
}

// sourceNames lists who may have sent a byte.
func (f *flight) sourceNames() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, s := range f.sources[:f.dead+1] {
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
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

package flight

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// Through reads a blob past all flights: for one reader, once, from its start, and without a spool. It is for when
// there is no room for one. The whole is verified before its last bytes leave, as in a flight. The caller closes the
// blob; ctx ends it.
func Through(ctx context.Context, dgst digest.Digest, src Source) (*Passage, error) {
	in, err := src.Open(ctx, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src, err)
	}
	return &Passage{in: in, src: src, dgst: dgst, hasher: dgst.Algorithm().Hash()}, nil
}

// Passage is a blob that is read from its source while it is copied. It can be copied once, from its start.
type Passage struct {
	in     Stream
	src    Source
	dgst   digest.Digest
	hasher hash.Hash
	held   []byte // What was read but may not leave yet.
	copied bool
}

var _ content.Arriving = (*Passage)(nil)

// Size implements content.Blob.
func (p *Passage) Size() int64 { return p.in.Size() }

// MediaType implements content.Blob.
func (p *Passage) MediaType() string { return "" }

// Source implements content.Arriving.
func (p *Passage) Source() string { return p.src.Kind() }

// Ready implements content.Arriving: it reads as much as is withheld, and one byte more.
func (p *Passage) Ready(_ context.Context, off int64) error {
	if off != 0 {
		return errors.New("a blob that passes through is only read from its start")
	}
	if p.held != nil {
		return nil
	}
	held := make([]byte, min(p.Size(), withheld+1))
	n, err := io.ReadFull(p.in, held)
	_, _ = p.hasher.Write(held[:n])
	if err != nil {
		return fmt.Errorf("%s: %w", p.src, err)
	}
	if int64(n) == p.Size() {
		if err := p.judge(); err != nil {
			return err
		}
	}
	p.held = held
	return nil
}

// CopyRange implements content.Blob, once and from the start. What is not the whole is not verified, and does not
// have the blob's end.
func (p *Passage) CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	if off != 0 || n > p.Size() || p.copied {
		return 0, errors.New("a blob that passes through is read once, from its start")
	}
	if n < p.Size() {
		w = &prefixWriter{w, n}
	}
	if err := p.Ready(ctx, 0); err != nil {
		return 0, err
	}
	p.copied = true
	// What is held moves along in front of what is read: written out only when as much has come after it.
	var (
		written int64
		size    = p.Size()
		read    = int64(len(p.held))
		buf     = make([]byte, bufferSize)
	)
	for read < size && written < n {
		m, err := p.in.Read(buf[:min(bufferSize, size-read)])
		read += int64(m)
		_, _ = p.hasher.Write(buf[:m])
		p.held = append(p.held, buf[:m]...)
		if out := len(p.held) - withheld; out > 0 {
			o, werr := w.Write(p.held[:out])
			written = min(written+int64(o), n)
			if werr != nil {
				return written, werr
			}
			p.held = append(p.held[:0], p.held[out:]...)
		}
		if err != nil && read < size {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return written, fmt.Errorf("%s: %w", p.src, err)
		}
	}
	if written == n {
		return n, nil
	}
	if err := p.judge(); err != nil {
		return written, err
	}
	m, err := w.Write(p.held)
	return min(written+int64(m), n), err
}

// prefixWriter writes the first n bytes, and swallows the rest.
type prefixWriter struct {
	w io.Writer
	n int64
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	keep := min(int64(len(b)), p.n)
	m, err := p.w.Write(b[:keep])
	p.n -= int64(m)
	if err != nil {
		return m, err
	}
	return len(b), nil
}

func (p *Passage) judge() error {
	if got := digest.NewDigest(p.dgst.Algorithm(), p.hasher); got != p.dgst {
		return fmt.Errorf("%w: got %s from %s", ErrMismatch, got, p.src)
	}
	return nil
}

// Close implements io.Closer.
func (p *Passage) Close() error { return p.in.Close() }

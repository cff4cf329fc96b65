package flight

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// Part is what has arrived so far of a blob that is on its way, for other members: it never waits for what has not. Its
// bytes are not verified as a whole. It belongs to one goroutine.
type Part struct {
	f          *flight
	file       *os.File
	size       int64
	generation int
}

var _ content.Arriving = (*Part)(nil)

// Part opens what there is of a blob on its way to those of a scope. The error wraps content.ErrNotFound where there is
// nothing.
func (g *Group) Part(scope string, dgst digest.Digest) (*Part, error) {
	g.mu.Lock()
	f := g.find(scope, dgst)
	g.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("%s: %w", dgst, content.ErrNotFound)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.spool == nil || f.landed || len(f.have) == 0 {
		return nil, fmt.Errorf("%s: nothing of it: %w", dgst, content.ErrNotFound)
	}
	file, err := f.spool.Reader()
	if err != nil {
		return nil, fmt.Errorf("open spool of %s: %w", dgst, err)
	}
	return &Part{f: f, file: file, size: f.size, generation: f.generation}, nil
}

// Size implements content.Blob.
func (p *Part) Size() int64 { return p.size }

// MediaType implements content.Blob.
func (p *Part) MediaType() string { return "" }

// Source implements content.Arriving.
func (p *Part) Source() string { return "flight" }

// Ready implements content.Arriving.
func (p *Part) Ready(_ context.Context, off int64) error { return p.Covers(off, min(1, p.size-off)) }

// Covers tells whether n bytes from off on have arrived: the error wraps content.ErrNotFound if not.
func (p *Part) Covers(off, n int64) error {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	if p.f.generation != p.generation || p.f.err != nil || p.f.have.endFrom(off) < off+n {
		return fmt.Errorf("%d bytes from %d of %s: %w", n, off, p.f.dgst, content.ErrNotFound)
	}
	return nil
}

// CopyRange implements content.Blob.
func (p *Part) CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	if err := content.CheckRange(p.size, off, n); err != nil {
		return 0, err
	}
	if err := p.Covers(off, n); err != nil {
		return 0, err
	}
	return content.CopyFile(ctx, w, p.file, off, n)
}

// Close implements io.Closer.
func (p *Part) Close() error { return p.file.Close() }

package content

import (
	"context"
	"io"
)

// Bytes is a blob in memory.
type Bytes struct {
	Body []byte
	Type string
}

// Size implements Blob.
func (b Bytes) Size() int64 { return int64(len(b.Body)) }

// MediaType implements Blob.
func (b Bytes) MediaType() string { return b.Type }

// CopyRange implements Blob.
func (b Bytes) CopyRange(_ context.Context, w io.Writer, off, n int64) (int64, error) {
	if err := CheckRange(b.Size(), off, n); err != nil {
		return 0, err
	}
	m, err := w.Write(b.Body[off : off+n])
	return int64(m), err
}

// Close implements Blob.
func (Bytes) Close() error { return nil }

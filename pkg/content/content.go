// Package content says what a store of blobs is: what every place on this node that holds content has in common.
//
// The stores themselves are in the packages below: cache is our own, bounded store on disk. contenttest holds the
// suite that every store must pass.
package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNotFound says that a store does not hold what was asked for. A miss is not a failure.
var ErrNotFound = errors.New("not held here")

// ErrNoSpace says that a store has no room for what it should keep, and can't make any.
var ErrNoSpace = errors.New("no space left for it")

// Blob is one blob, open for reading; it stays readable until Close, whatever the store does meanwhile. Blobs may
// still be arriving: then reading waits. A Blob belongs to one goroutine.
type Blob interface {
	io.Closer

	// Size is the whole blob's size in bytes.
	Size() int64

	// MediaType is what the store knows of the blob's media type; empty where it knows none.
	MediaType() string

	// CopyRange writes the n bytes from off on to w, by sendfile(2) where w and the store allow it, and returns how
	// many it wrote. It returns early with an error when ctx ends, w fails or the bytes can't be had. Ranges outside
	// of the blob are an error, and n may be zero.
	CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error)
}

// Store holds blobs by digest. Stores are safe for concurrent use.
type Store interface {
	// Open opens a blob, or returns an error that wraps ErrNotFound.
	Open(ctx context.Context, dgst digest.Digest) (Blob, error)
}

// Tag is what a tag was last known to mean.
type Tag struct {
	// Target is the manifest's descriptor: media type, digest and size in bytes.
	Target ocispec.Descriptor
	// Confirmed is when the registry, or who stands in for it, last said so.
	Confirmed time.Time
	// Author is the member whose word it is that the registry said so. It is empty where this node heard the registry
	// itself, or reads a runtime's record.
	Author string
}

// Claim is a runtime's word that a manifest belongs to a repository. It proves nothing: whoever chooses the images of a
// node chooses its claims.
type Claim struct {
	Repository reference.Repository
	Target     digest.Digest
}

// TagStore knows what tags mean. A tag may be known whose manifest is not held.
type TagStore interface {
	// Tag looks up a reference by tag, or returns an error that wraps ErrNotFound.
	Tag(ctx context.Context, ref reference.Reference) (Tag, error)
}

// CheckRange says what is wrong with a range of a blob of that size, if anything. It can't overflow.
func CheckRange(size, off, n int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("range of %d bytes from %d is outside of a blob of %d bytes", n, off, size)
	}
	return nil
}

// ReadAll reads a whole blob into memory. Blobs of more than limit bytes are refused before anything is read.
func ReadAll(ctx context.Context, b Blob, limit int64) ([]byte, error) {
	if b.Size() > limit {
		return nil, fmt.Errorf("blob of %d bytes is larger than %d", b.Size(), limit)
	}
	buf := bytes.NewBuffer(make([]byte, 0, b.Size()))
	if _, err := b.CopyRange(ctx, buf, 0, b.Size()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Arriving is a Blob whose bytes may not be there yet.
type Arriving interface {
	Blob
	// Ready waits until CopyRange from off would give at least one byte at once, so that whoever answers a request
	// knows that there is an answer before the first of it leaves.
	Ready(ctx context.Context, off int64) error
	// Source says what kinds of sources the bytes have come from so far, for logs and metrics.
	Source() string
}

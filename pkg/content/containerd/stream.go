package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
)

// stallTimeout is how long containerd may take for the next bytes of a blob. They come from a local disk.
const stallTimeout = 10 * time.Second

// errStalled says that containerd did not send anything for stallTimeout.
var errStalled = errors.New("containerd sends nothing")

// streamed is a blob that comes through containerd's API.
//
// containerd opens a blob when a stream starts, and it stays readable on that stream even if it is collected. So a
// stream from the first byte on is there from the beginning, and its first bytes have come, before anybody is promised
// anything. Whoever reads in order reads that stream to its end; other ranges need a new one, which fails if the
// blob is gone by then.
type streamed struct {
	remote    *remote
	namespace string
	dgst      digest.Digest
	size      int64

	stream grpc.ServerStreamingClient[contentapi.ReadContentResponse] // Nil when there is none.
	cancel context.CancelCauseFunc                                    // Ends it.
	chunk  []byte                                                     // What it gave and nobody has read.
	at     int64                                                      // Where in the blob chunk begins.
}

// open opens a blob. Manifests, and what is like them, are read at once, because their media type is in them.
func (r *remote) open(ctx context.Context, dgst digest.Digest) (content.Blob, error) {
	info, namespace, err := r.info(ctx, dgst)
	if err != nil {
		return nil, err
	}
	b := &streamed{remote: r, namespace: namespace, dgst: dgst, size: info.Size}
	if b.size == 0 {
		return b, nil
	}
	b.start(ctx, 0)
	if err := b.fill(ctx); err != nil {
		_ = b.Close() // It can't fail.
		return nil, err
	}
	if b.chunk[0] != '{' || b.size > content.MaxManifestBytes {
		return b, nil
	}
	defer b.Close()
	body, err := content.ReadAll(ctx, b, content.MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	return inMemory{content.Bytes{Body: body, Type: content.ManifestType(body)}}, nil
}

// Size implements content.Blob.
func (b *streamed) Size() int64 { return b.size }

// MediaType implements content.Blob.
func (b *streamed) MediaType() string { return "" }

// CopyRange implements content.Blob.
func (b *streamed) CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	if err := content.CheckRange(b.size, off, n); err != nil {
		return 0, err
	}
	if n > 0 && (b.stream == nil || b.at != off) {
		b.end()
		b.start(ctx, off)
	}
	var written int64
	for written < n {
		if err := b.fill(ctx); err != nil {
			return written, err
		}
		part := b.chunk[:min(int64(len(b.chunk)), n-written)]
		m, err := w.Write(part)
		b.chunk, b.at = b.chunk[m:], b.at+int64(m)
		written += int64(m)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close implements io.Closer.
func (b *streamed) Close() error {
	b.end()
	return nil
}

// start begins a stream. It does not end with ctx, since the blob outlives whoever opened it, but with end.
func (b *streamed) start(ctx context.Context, off int64) {
	ctx, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	b.at = off
	stream, err := b.remote.content.Read(in(ctx, b.namespace), &contentapi.ReadContentRequest{
		Digest: b.dgst.String(), Offset: off,
	})
	if err != nil {
		b.end() // The next fill says that there is none; the connection is gone.
		return
	}
	b.stream = stream
}

func (b *streamed) end() {
	if b.cancel != nil {
		b.cancel(nil)
	}
	b.stream, b.cancel, b.chunk = nil, nil, nil
}

// fill waits until there are bytes at hand.
func (b *streamed) fill(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(b.chunk) > 0 {
		return nil
	}
	if b.stream == nil {
		return fmt.Errorf("read containerd's %s: containerd can't be reached", b.dgst)
	}
	cancel := b.cancel
	stop := context.AfterFunc(ctx, func() { cancel(nil) })
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	var err error
	for err == nil && len(b.chunk) == 0 {
		var resp *contentapi.ReadContentResponse
		if resp, err = b.stream.Recv(); err == nil {
			b.chunk = resp.Data
		}
	}
	// If one of them fires as the bytes come, the stream has ended, which the next fill will say.
	stop()
	stall.Stop()
	if err == nil {
		return nil
	}
	if cause := context.Cause(b.stream.Context()); errors.Is(cause, errStalled) {
		err = errStalled
	}
	b.end()
	return readError(ctx, b.dgst, err)
}

// inMemory is a small blob that was read whole.
type inMemory struct{ content.Bytes }

// CopyRange implements content.Blob.
func (b inMemory) CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return b.Bytes.CopyRange(ctx, w, off, n)
}

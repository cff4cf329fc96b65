package httpclient

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrStalled ends a body that stood still for too long.
var ErrStalled = errors.New("no byte arrived for too long")

// Body reads an answer's body and notices when it stands still. The time between two reads, when the reader is busy
// with something else, is not the server's fault and does not count. It belongs to one goroutine.
type Body struct {
	inner    io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	progress time.Duration
	received prometheus.Counter
}

// NewBody makes a body out of one that was asked for with ctx, which cancel ends. A read of more than progress fails
// with ErrStalled. What is read counts as received. Close ends ctx.
func NewBody(
	ctx context.Context, cancel context.CancelCauseFunc, inner io.ReadCloser, progress time.Duration,
	received prometheus.Counter,
) *Body {
	b := &Body{inner: inner, ctx: ctx, cancel: cancel, progress: progress, received: received}
	b.timer = time.AfterFunc(progress, func() { cancel(ErrStalled) })
	b.timer.Stop() // Each read starts it.
	return b
}

// Read implements io.Reader. Once ctx has ended, why it did is the error.
func (b *Body) Read(p []byte) (int, error) {
	b.timer.Reset(b.progress)
	n, err := b.inner.Read(p)
	b.timer.Stop()
	b.received.Add(float64(n))
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *Body) Close() error {
	b.timer.Stop()
	err := b.inner.Close()
	b.cancel(nil)
	return err
}

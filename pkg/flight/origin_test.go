package flight_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/flight"
)

// origin is a source that serves a blob from memory, counts what it sends, and breaks as it is told.
type origin struct {
	name   string
	body   []byte
	size   int64 // What it says of the size; len(body) if zero.
	breaks int64 // Breaks before this byte, if positive.
	alone  bool  // Refuses to start anywhere but at the beginning, but does not say so beforehand.
	ponder int64 // Refuses only when it has sent so much.
	silent bool  // Starts at the beginning, whatever is asked.
	// untrusted sources are held back. Once blamed, a source has this instead, which may be nothing.
	untrusted bool
	instead   []byte
	gate      chan struct{} // If not nil, one receive for each read.

	mu     sync.Mutex
	sent   int64
	opens  []int64
	blamed int
}

func (o *origin) String() string { return o.name }
func (o *origin) Kind() string   { return "test" }
func (o *origin) Trusted() bool  { return !o.untrusted }

func (o *origin) Blame(error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blamed++
	o.body = o.instead
}

func (o *origin) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	for sent := int64(0); o.alone && off > 0 && sent < o.ponder && ctx.Err() == nil; sent, _ = o.counted() {
		time.Sleep(time.Millisecond)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.body == nil {
		return nil, errors.New("has nothing")
	}
	if o.alone && off > 0 {
		return nil, errors.New("one connection only")
	}
	o.opens = append(o.opens, off)
	if end < 0 {
		end = int64(len(o.body))
	}
	return &passage{o: o, body: o.body, ctx: ctx, off: off, end: end}, nil
}

type passage struct {
	o        *origin
	body     []byte
	ctx      context.Context
	off, end int64
}

func (p *passage) Size() int64 {
	if p.o.size != 0 {
		return p.o.size
	}
	return int64(len(p.body))
}
func (p *passage) Ranged() bool { return !p.o.silent }
func (p *passage) Close() error { return nil }

func (p *passage) Read(buf []byte) (int, error) {
	if p.o.gate != nil {
		select {
		case <-p.o.gate:
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	if p.off >= p.end {
		return 0, io.EOF
	}
	if p.o.breaks > 0 && p.off >= p.o.breaks {
		return 0, errors.New("connection reset")
	}
	n := copy(buf[:min(len(buf), 64<<10)], p.body[p.off:p.end])
	p.off += int64(n)
	p.o.mu.Lock()
	p.o.sent += int64(n)
	p.o.mu.Unlock()
	return n, nil
}

func (o *origin) counted() (sent int64, opens int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent, len(o.opens)
}

package httpserver

import (
	"context"
	"time"

	"github.com/kioo-dev/kioo/pkg/sleep"
)

const (
	// firstPause is how long the second of two requests waits that came at once. Each of more waits longer times as long
	// as the one before, and longestPause at most.
	firstPause   = 10 * time.Millisecond
	longer       = 10
	longestPause = time.Second
)

// pipeline tells clients that send requests without waiting for answers. HTTP/1.1 lets them (RFC 9112, section 9.3.2),
// and no client of a registry does; but by it a few connections can have a server work for nobody, as fast as it can.
type pipeline struct {
	reads int64         // By the end of the last request; none before the first.
	pause time.Duration // Of the last request: 0 if it came when the client could have the answer to the one before.
}

// begin gives how long a request waits, of a connection that bytes were read from so often.
func (p *pipeline) begin(reads int64) time.Duration {
	if reads != p.reads {
		p.pause = 0
	} else {
		p.pause = min(max(longer*p.pause, firstPause), longestPause)
	}
	return p.pause
}

// end notes that a request was served.
func (p *pipeline) end(reads int64) { p.reads = reads }

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// queue has a request wait that was sent ahead, and gives what is to be called at its end. A request that waits holds
// up nobody. Clients that have proven who they are never wait: what TLS reads ahead looks the same as what they send
// ahead.
func (c *conn) queue(ctx context.Context) (end func()) {
	if c.door.secured {
		return func() {}
	}
	if pause := c.pipeline.begin(c.reads.Load()); pause > 0 {
		c.door.doubt(c, true)
		_ = sleep.For(ctx, pause) // The handler sees for itself that the client has left.
		c.door.doubt(c, false)
	}
	return func() { c.pipeline.end(c.reads.Load()) }
}

package httpserver

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/pkg/bound"
)

// pacing is a listener whose connections keep the pace.
type pacing struct {
	net.Listener
	patience time.Duration
	door     *door
}

// Accept implements net.Listener.
func (l *pacing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err // What net/http retries, it tells by the error's own type.
	}
	return &conn{Conn: c, door: l.door, source: bound.SourceAt(c.RemoteAddr()), pace: pace{patience: l.patience}}, nil
}

// conn is a connection that ends when its client does not read. That is decided here, below everything that writes, so
// that no answer is without it. Like all connections it is safe for concurrent use, but has one writer.
type conn struct {
	net.Conn
	door   *door
	source bound.Source
	reads  atomic.Int64 // How often bytes were read.
	// pipeline is for the one who serves its requests, one after the other.
	pipeline pipeline

	mu      sync.Mutex
	pace    pace
	limit   time.Time // That those above have set; zero for none.
	writing time.Time // Since when a write is under way; zero for none.
	armed   time.Time // The deadline that Conn has.
}

// connOf gives the connection below what net/http has, nil where it is none of ours.
func connOf(c net.Conn) *conn {
	for {
		if ours, ok := c.(*conn); ok {
			return ours
		}
		above, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = above.NetConn()
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (written int, err error) {
	for len(p) > 0 || written == 0 {
		part := p[:min(len(p), stride)]
		n, err := c.timed(func() (int64, error) {
			n, err := c.Conn.Write(part)
			return int64(n), err
		})
		written += int(n)
		if err != nil || len(part) == len(p) {
			return written, err
		}
		p = p[len(part):]
	}
	return written, nil
}

// ReadFrom implements io.ReaderFrom, by which the kernel copies files. The time that other readers take is not the
// client's, so these are read here.
func (c *conn) ReadFrom(src io.Reader) (written int64, err error) {
	to, ok := c.Conn.(io.ReaderFrom)
	from, left := src, int64(math.MaxInt64)
	limited, bounded := src.(*io.LimitedReader)
	if bounded {
		from, left = limited.R, limited.N
	}
	if !ok || !isFile(from) {
		return io.Copy(struct{ io.Writer }{c}, src)
	}
	for left > 0 {
		part := &io.LimitedReader{R: from, N: min(left, stride)}
		asked := part.N
		n, err := c.timed(func() (int64, error) { return to.ReadFrom(part) })
		written, left = written+n, left-n
		if bounded {
			limited.N = left
		}
		if err != nil || n < asked {
			return written, err
		}
	}
	return written, nil
}

// isFile tells files, whatever package os wraps them in, from what makes a reader wait.
func isFile(r io.Reader) bool {
	_, descriptor := r.(syscall.Conn)
	_, socket := r.(net.Conn)
	return descriptor && !socket
}

// timed runs one write within the time that there is for it.
func (c *conn) timed(write func() (int64, error)) (int64, error) {
	began := time.Now()
	c.mu.Lock()
	c.writing = began
	err := c.arm()
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := write()
	c.mu.Lock()
	c.pace.wrote(n, time.Since(began))
	c.writing = time.Time{}
	c.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.discard()
	}
	return n, err
}

// arm sets the deadline of the write under way. One that is a little early stays: TLS writes 16 KiB at a time, and each
// deadline costs a timer.
func (c *conn) arm() error {
	allow := c.pace.allow()
	d := c.writing.Add(allow)
	if early := d.Sub(c.armed); c.limit.IsZero() && early >= 0 && early <= allow/8 {
		return nil
	}
	if !c.limit.IsZero() && c.limit.Before(d) {
		d = c.limit
	}
	c.armed = d
	return c.Conn.SetWriteDeadline(d)
}

// SetWriteDeadline implements net.Conn: a deadline besides the pace.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	if c.writing.IsZero() {
		return nil
	}
	return c.arm()
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite is what net/http ends a connection with whose client may still be sending: it has to hear why.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// discard has the kernel forget what it holds for a client that does not read, some MiB, once the connection closes.
func (c *conn) discard() {
	if tcp, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0) // If it fails, the kernel forgets later.
	}
}

// stalled tells how far the client is behind with reading, 0 if that is nothing to speak of.
func (c *conn) stalled() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing.IsZero() {
		return 0
	}
	if late := time.Since(c.writing) + c.pace.owed; late >= behind {
		return int64(late)
	}
	return 0
}

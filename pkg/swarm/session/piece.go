package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// outcome is what became of a request.
type outcome struct {
	result string // For the metric.
	err    error
	retry  time.Duration
	hash   swarm.Hash // Of what arrived.
}

const (
	arrived   = "arrived"
	refused   = "refused"
	late      = "late"
	lost      = "lost"
	wrong     = "wrong"
	another   = "another"
	cancelled = "cancelled"
	present   = "present"
)

// absentRetry is when to ask a member again for a piece that it said to have, and then had not.
const absentRetry = time.Second

// ask asks a neighbour for a piece.
func (p *session) ask(now time.Time, a swarm.Request) {
	r := request{a.Member, a.Piece}
	n := p.neighbours[a.Member]
	if n == nil || p.requests[r] != nil {
		p.later(func(now time.Time) []swarm.Action { return p.download.Refused(now, a.Member, a.Piece, absentRetry) })
		return
	}
	// The spool is there from the first piece on, by what others say of the size.
	if err := p.task.Begin(p.size); err != nil {
		if p.learn(now); !p.over {
			p.leave(err)
		}
		return
	}
	ctx, cancel := context.WithDeadline(p.ctx, a.Deadline)
	p.requests[r] = cancel
	p.work.Go(func() {
		o := n.get(ctx, a.Piece, a.Hash)
		p.post(func(now time.Time) { p.concluded(now, r, n, o) })
		cancel()
	})
}

// cancelRequest gives a request up. What still comes of it is not told to the picker.
func (p *session) cancelRequest(r request) {
	if cancel := p.requests[r]; cancel != nil {
		delete(p.requests, r)
		cancel()
	}
}

// concluded tells the picker what became of a request.
func (p *session) concluded(now time.Time, r request, n *neighbour, o outcome) {
	if p.requests[r] == nil {
		o.result = cancelled
	}
	p.x.requests.WithLabelValues(o.result).Inc()
	if o.result == cancelled {
		return
	}
	delete(p.requests, r)
	switch o.result {
	case arrived:
		p.hashes[r.piece] = o.hash
		p.do(now, p.download.Arrived(now, r.member, r.piece))
	case refused:
		p.do(now, p.download.Refused(now, r.member, r.piece, o.retry))
	case late:
		p.late[r.member]++
		p.do(now, p.download.TimedOut(now, r.member, r.piece))
	case another: // Its flight has started over, or it is not what we think.
		p.x.cfg.Peers.Violations().Note(string(n.id), strings.Join(n.member.PeerAPI, " "), p.ref.Digest.String(), o.err)
		p.disconnect(n.id)
		p.do(now, p.download.Lied(now, r.member))
	case wrong:
		p.do(now, p.download.Wrong(now, r.member, r.piece))
	case lost:
		p.lost(now, n, o.err)
	case present: // A lease has brought it meanwhile.
		p.hasher.present(r.piece)
		p.do(now, p.download.Refused(now, r.member, r.piece, absentRetry))
	}
}

// get reads a piece, and keeps it if it is what its hash says.
func (n *neighbour) get(ctx context.Context, piece int, want swarm.Hash) outcome {
	p := n.p
	start, end := p.layout.Span(piece)
	into, err := p.task.Piece(start, end)
	switch {
	case err != nil:
		return outcome{result: refused, err: err, retry: absentRetry}
	case into == nil:
		return outcome{result: present}
	}
	defer into.Drop()
	in, err := p.peers.Piece(ctx, n.member.PeerAPI, p.ref, start, end)
	if err != nil {
		return failure(ctx, err)
	}
	defer in.Close()
	if in.Size() != p.size {
		return outcome{result: another, err: peer.Violate(peer.BadSize, "a piece of %d bytes, of a blob of %d", in.Size(), p.size)}
	}
	got, err := p.copyPiece(into, in, end-start)
	if err != nil {
		return failure(ctx, err)
	}
	if got != want {
		return outcome{result: wrong, err: errWrongPiece}
	}
	if err := into.Keep(p.origin, n.distant()); err != nil {
		return outcome{result: refused, err: err, retry: absentRetry}
	}
	return outcome{result: arrived, hash: got}
}

// copyPiece moves all bytes of a piece, and gives their hash.
func (p *session) copyPiece(into io.Writer, in io.Reader, size int64) (got swarm.Hash, err error) {
	buf := p.x.buffers.Get().(*[copyBuffer]byte)
	defer p.x.buffers.Put(buf)
	hash := sha256.New()
	for left := size; left > 0; {
		chunk := buf[:min(left, copyBuffer)]
		if _, err := io.ReadFull(in, chunk); err != nil {
			return got, fmt.Errorf("%d bytes from the piece's end: %w", left, err)
		}
		_, _ = hash.Write(chunk) // It never fails, by its documentation.
		if _, err := into.Write(chunk); err != nil {
			return got, err
		}
		left -= int64(len(chunk))
	}
	hash.Sum(got[:0])
	return got, nil
}

// failure says what an error means.
func failure(ctx context.Context, err error) outcome {
	var busy *peer.Busy
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return outcome{result: late, err: err}
	case ctx.Err() != nil:
		return outcome{result: cancelled, err: err}
	case errors.Is(err, peer.ErrLied):
		return outcome{result: wrong, err: err}
	case errors.As(err, &busy):
		return outcome{result: refused, err: err, retry: busy.Retry}
	case errors.Is(err, peer.ErrNotHeld):
		return outcome{result: refused, err: err, retry: absentRetry}
	}
	return outcome{result: lost, err: err}
}

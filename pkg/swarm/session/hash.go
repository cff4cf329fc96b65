package session

import (
	"crypto/sha256"
	"hash"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// hasher takes the hashes of pieces that came from leases, and tells them in the order in which the pieces were
// complete: of the bytes as they come, so that what a bad disk makes of them later is taken for right by nobody. It
// does nothing while there is nobody to tell: a lone downloader does not pay for it. If somebody comes, what is there
// is read back from the spool.
type hasher struct {
	p    *session
	kick chan struct{}

	mu     sync.Mutex
	layout *swarm.Layout // Nil until the size is known.
	early  []span        // What arrived before that.
	queued swarm.Pieces
	hashes map[int]swarm.Hash // Of pieces in todo that are not to be read back.
	todo   []int
	needed bool
}

// running is the hash of the piece that is being read from a lease. Its zero value is of none.
type running struct {
	hash hash.Hash
	next int64 // The byte that it goes on with.
}

// write takes bytes in that lie within one piece [start, end), and gives its hash if they are the last ones and all
// before came in order.
func (r *running) write(start, end, off int64, b []byte) (sum swarm.Hash, ok bool) {
	switch {
	case off == start:
		r.hash = sha256.New()
	case r.hash == nil || off != r.next:
		r.hash = nil
		return sum, false
	}
	_, _ = r.hash.Write(b) // A hash never fails, by its documentation.
	if r.next = off + int64(len(b)); r.next < end {
		return sum, false
	}
	r.hash.Sum(sum[:0])
	r.hash = nil
	return sum, true
}

// span is bytes from start up to, and without, end.
type span struct{ start, end int64 }

func newHasher(p *session) *hasher {
	return &hasher{p: p, kick: make(chan struct{}, 1), hashes: map[int]swarm.Hash{}}
}

// start tells the blob's layout.
func (h *hasher) start(layout swarm.Layout) {
	h.mu.Lock()
	h.layout = &layout
	early := h.early
	h.early = nil
	h.mu.Unlock()
	for _, r := range early {
		h.there(r.start, r.end)
	}
}

// need says that there is somebody to tell.
func (h *hasher) need() {
	h.mu.Lock()
	h.needed = true
	h.mu.Unlock()
	h.wake()
}

func (h *hasher) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// arrived notes bytes of a lease that are in the spool. It does not wait. r belongs to the lease.
func (h *hasher) arrived(r *running, off int64, b []byte) {
	h.mu.Lock()
	layout, needed := h.layout, h.needed
	h.mu.Unlock()
	if layout == nil || !needed {
		h.there(off, off+int64(len(b)))
		return
	}
	for len(b) > 0 {
		piece := layout.At(off)
		start, end := layout.Span(piece)
		n := min(int64(len(b)), end-off)
		sum, whole := r.write(start, end, off, b[:n])
		h.mu.Lock()
		if whole && !h.queued.Has(piece) {
			h.hashes[piece] = sum
		}
		h.add(piece)
		h.mu.Unlock()
		off, b = off+n, b[n:]
	}
}

// there notes bytes that are in the spool.
func (h *hasher) there(start, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.layout == nil {
		h.early = append(h.early, span{start, end})
		return
	}
	for piece := h.layout.At(start); piece <= h.layout.At(end-1); piece++ {
		h.add(piece)
	}
}

// add queues a piece if all of it is there. Called with mu held.
func (h *hasher) add(piece int) {
	if start, end := h.layout.Span(piece); h.queued.Has(piece) || !h.p.task.Has(start, end) {
		return
	}
	h.queued.Add(piece)
	h.todo = append(h.todo, piece)
	if h.needed {
		h.wake()
	}
}

// present queues a piece that turned out to be here already.
func (h *hasher) present(piece int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(piece)
}

// next gives a piece to tell of, with its hash if that is known.
func (h *hasher) next() (have swarm.Have, hashed, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.needed || len(h.todo) == 0 {
		return have, false, false
	}
	have.Piece = h.todo[0]
	h.todo = h.todo[1:]
	have.Hash, hashed = h.hashes[have.Piece]
	delete(h.hashes, have.Piece)
	return have, hashed, true
}

// run hashes until the session ends.
func (h *hasher) run() {
	var buf []byte
	for {
		select {
		case <-h.kick:
		case <-h.p.ctx.Done():
			return
		}
		for have, hashed, ok := h.next(); ok; have, hashed, ok = h.next() {
			if !hashed {
				var err error
				if buf == nil {
					buf = make([]byte, copyBuffer)
				}
				if have.Hash, err = h.hash(have.Piece, buf); err != nil {
					return // The flight has ended, or has started over.
				}
			}
			if !h.p.post(func(now time.Time) { h.p.brought(now, have) }) {
				return
			}
		}
	}
}

func (h *hasher) hash(piece int, buf []byte) (hash swarm.Hash, err error) {
	digest := sha256.New()
	start, end := h.layout.Span(piece)
	for ; start < end; start += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-start)]
		if _, err := h.p.task.ReadAt(buf, start); err != nil {
			return swarm.Hash{}, err
		}
		_, _ = digest.Write(buf) // A hash never fails, by its documentation.
	}
	digest.Sum(hash[:0])
	return hash, nil
}

// brought takes a piece that came from outside of the swarm.
func (p *session) brought(now time.Time, have swarm.Have) {
	p.hashes[have.Piece] = have.Hash
	p.do(now, p.download.Fetched(now, have))
}

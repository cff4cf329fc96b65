package exchange

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// hasher takes the hashes of pieces that came from leases, beside their copying and in the order in which they were
// complete. It does nothing while there is nobody to tell: a lone downloader does not pay for it.
type hasher struct {
	p    *party
	kick chan struct{}

	mu     sync.Mutex
	layout *swarm.Layout // Nil until the size is known.
	early  []span        // What arrived before that.
	queued swarm.Pieces
	todo   []int
	needed bool
}

// span is bytes from start up to, and without, end.
type span struct{ start, end int64 }

func newHasher(p *party) *hasher { return &hasher{p: p, kick: make(chan struct{}, 1)} }

// start tells the blob's layout.
func (h *hasher) start(layout swarm.Layout) {
	h.mu.Lock()
	h.layout = &layout
	early := h.early
	h.early = nil
	h.mu.Unlock()
	for _, r := range early {
		h.arrived(r.start, r.end)
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

// arrived notes bytes of a lease that are in the spool. It does not wait.
func (h *hasher) arrived(start, end int64) {
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

// next gives a piece to hash.
func (h *hasher) next() (int, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.needed || len(h.todo) == 0 {
		return 0, false
	}
	piece := h.todo[0]
	h.todo = h.todo[1:]
	return piece, true
}

// run hashes until the party ends.
func (h *hasher) run() {
	buf := make([]byte, 256<<10)
	for {
		select {
		case <-h.kick:
		case <-h.p.ctx.Done():
			return
		}
		for piece, ok := h.next(); ok; piece, ok = h.next() {
			hash, err := h.hash(piece, buf)
			if err != nil {
				return // The flight has ended, or has started over.
			}
			have := swarm.Have{Piece: piece, Hash: hash}
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
func (p *party) brought(now time.Time, have swarm.Have) {
	p.hashes[have.Piece] = have.Hash
	p.do(now, p.download.Fetched(now, have))
}

package peer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// gate lets uploads through as swarm.Uploads decides. It is safe for concurrent use.
type gate struct {
	mu      sync.Mutex
	uploads *swarm.Uploads
	waiting map[swarm.ID][]chan struct{} // Those in the queue, in the order in which they came.
}

func newGate(cfg swarm.UploadsConfig) *gate {
	return &gate{uploads: swarm.NewUploads(cfg), waiting: map[swarm.ID][]chan struct{}{}}
}

// enter waits for a slot, for as long as requests may wait. Without one it says when to ask again. first says that
// the whole swarm waits for this upload.
func (g *gate) enter(ctx context.Context, member swarm.ID, first bool) (hint time.Duration, ok bool) {
	g.mu.Lock()
	ask := g.uploads.Ask
	if first {
		ask = g.uploads.AskFirst
	}
	verdict, hint := ask(time.Now(), member)
	if verdict != swarm.Queue {
		g.mu.Unlock()
		return hint, verdict == swarm.Serve
	}
	turn := make(chan struct{})
	g.waiting[member] = append(g.waiting[member], turn)
	g.mu.Unlock()
	timeout := time.NewTimer(queueWait)
	defer timeout.Stop()
	select {
	case <-turn:
		return 0, true
	case <-ctx.Done():
	case <-timeout.C:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.forget(member, turn) {
		return 0, true // It got its slot at the same moment.
	}
	g.uploads.Abandon(member)
	return queueWait, false
}

// forget takes a request out of those that wait, and tells whether it was there. Called with mu held.
func (g *gate) forget(member swarm.ID, turn chan struct{}) bool {
	i := slices.Index(g.waiting[member], turn)
	if i < 0 {
		return false
	}
	g.waiting[member] = slices.Delete(g.waiting[member], i, i+1)
	if len(g.waiting[member]) == 0 {
		delete(g.waiting, member)
	}
	return true
}

// leave gives a slot back.
func (g *gate) leave(member swarm.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, ok := g.uploads.Done(time.Now(), member)
	if !ok || len(g.waiting[next]) == 0 {
		return
	}
	turn := g.waiting[next][0]
	g.forget(next, turn)
	close(turn)
}

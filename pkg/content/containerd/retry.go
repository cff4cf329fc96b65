package containerd

import (
	"context"
	"math/rand/v2"
	"time"
)

// retry waits between attempts: twice as long after each, with a quarter of jitter either way.
type retry struct {
	first, most time.Duration
	next        time.Duration
}

// reset says that an attempt succeeded.
func (r *retry) reset() { r.next = 0 }

// sleep waits until the next attempt is due or ctx ends.
func (r *retry) sleep(ctx context.Context) {
	r.next = min(max(2*r.next, r.first), r.most)
	timer := time.NewTimer(r.next*3/4 + rand.N(r.next/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

package object

import (
	"context"
	"errors"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
)

const (
	// renewEvery is how often a member that fetches for all says that it still does, and renewWithin what it promises:
	// when it dies, somebody else goes upstream after that time.
	renewEvery  = 300 * time.Millisecond
	renewWithin = 1500 * time.Millisecond
	// leadWithin is how long such a fetch may take, so that nobody renews for ever what was given up unnoticed.
	leadWithin = 30 * time.Second
)

// Lease is a member's word to get an object from upstream, for all. It is kept until one of its methods says how that
// went, which is called once, and which waits for nobody.
type Lease struct {
	object  *Object
	outcome chan func(ctx context.Context)
}

// Lead keeps the lease that Next gave alive, in the background.
func (x *Object) Lead() *Lease {
	l := &Lease{object: x, outcome: make(chan func(context.Context), 1)}
	small := x.small
	x.objects.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, leadWithin)
		defer cancel()
		renew := time.NewTicker(renewEvery)
		defer renew.Stop()
		for {
			select {
			case <-renew.C:
				// That this member still tries counts as progress: upstream's own deadlines end what gets nowhere.
				small.Fetched++
				x.objects.tell(ctx, x.key, small)
			case end := <-l.outcome:
				end(ctx)
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return l
}

// Got says that upstream sent the content.
func (l *Lease) Got(dgst digest.Digest, size int64) {
	l.outcome <- func(ctx context.Context) { l.object.objects.hold(ctx, l.object.key, dgst, size) }
}

// Means says what upstream said that the tag means. brought says that it sent the manifest as well.
func (l *Lease) Means(value tracker.TagValue, brought bool) {
	x := l.object
	l.outcome <- func(ctx context.Context) {
		if brought { // First, as this is what the others want next.
			target := value.Target
			x.objects.hold(ctx, tracker.Apart(target.Digest.String(), x.scope), target.Digest, target.Size)
		}
		x.objects.tell(ctx, x.key, tracker.Small{Announce: swarm.Announce{Size: 1, Complete: true}, Value: &value})
	}
}

// Failed says that upstream gave nothing, and why.
func (l *Lease) Failed(err error) {
	a := swarm.Announce{Size: l.object.small.Size}
	switch {
	case errors.Is(err, context.Canceled):
		a.Leaving = true
	case errors.Is(err, upstream.ErrNotFound), errors.Is(err, upstream.ErrDenied):
		a.Upstream = swarm.Refused
	default:
		a.Upstream = swarm.Failing // Also where the rate is limited: another member's may not be.
	}
	l.outcome <- func(ctx context.Context) { l.object.objects.tell(ctx, l.object.key, tracker.Small{Announce: a}) }
}

package daemon

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/prefetch"
	"github.com/kioo-dev/kioo/pkg/sleep"
)

const (
	// meetMembers is how long a member that just started waits before it decides which images are its own: it has to
	// know who else there is.
	meetMembers = 15 * time.Second
	// firstRetry and lastRetry bound the wait before an image that could not be brought in is tried again.
	firstRetry, lastRetry = 10 * time.Second, 10 * time.Minute
)

func (d *Daemon) openControl() {
	d.control = &control{
		refresh:  d.mirror.Refresh,
		prefetch: prefetch.New(prefetch.Config{Backend: d.mirror, Check: d.mirror.Check, Parallel: d.cfg.Prefetch.Parallel, Log: d.log.WithName("prefetch")}),
		gate:     prefetch.NewGate(maxPrefetches), fleet: d.fleet, log: d.log.WithName("control"),
	}
}

// warm brings in the images of the configuration that this node is to hold, until ctx ends.
func (d *Daemon) warm(ctx context.Context) error {
	c := d.cfg.Prefetch
	if len(c.Images) == 0 || d.fleet != nil && sleep.For(ctx, meetMembers) != nil {
		return nil
	}
	for {
		retry := backoff.ExponentialBackOff{
			InitialInterval: firstRetry, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: lastRetry,
		}
		left := c.Images
		for {
			if left = d.warmOnce(ctx, left); len(left) == 0 {
				break
			}
			if sleep.For(ctx, retry.NextBackOff()) != nil {
				return nil
			}
		}
		if c.Every == 0 || sleep.For(ctx, c.Every) != nil {
			return nil
		}
	}
}

// warmOnce brings in the images of a list that are this node's, one after the other, and gives those that failed.
func (d *Daemon) warmOnce(ctx context.Context, images []config.PrefetchImage) (failed []config.PrefetchImage) {
	for _, image := range images {
		for _, m := range d.control.choose(image.Image, image.Zones, image.Copies, false) {
			if len(m.PeerAPI) > 0 {
				continue // Another member's, which has the same list.
			}
			if err := d.control.prefetch.Pull(ctx, image.Image, func(prefetch.Progress) {}); err != nil {
				failed = append(failed, image)
			}
		}
	}
	return failed
}

package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
)

const (
	// keepInterval is how often the cache looks for what it can let go of.
	keepInterval = 30 * time.Second
	// keepUntil is how long containerd must have held a blob before the cache relies on it. One that discards layers
	// once they are unpacked has them for as long as the pull lasts.
	keepUntil = 5 * time.Minute
)

// letGo drops from the cache what containerd holds as well, until ctx ends.
func letGo(ctx context.Context, c *cache.Cache, store *containerd.Store, log logr.Logger) error {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		dropped := 0
		for _, dgst := range c.List() {
			if since, ok := store.Held(dgst); !ok || time.Since(since) < keepUntil {
				continue
			}
			if err := c.Delete(ctx, dgst); err != nil {
				if !errors.Is(err, content.ErrNotFound) {
					log.Error(err, "let go of a blob", "digest", dgst)
				}
				continue
			}
			dropped++
		}
		if dropped > 0 {
			log.Info("cache let go of what containerd holds", "blobs", dropped)
		}
	}
}

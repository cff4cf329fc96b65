package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/opencontainers/go-digest"
)

const (
	// keepInterval is how often the cache looks for what it can let go of.
	keepInterval = 30 * time.Second
	// keepUntil is how long containerd must have held a blob before the cache relies on it. One that discards layers
	// once they are unpacked has them for as long as the pull lasts.
	keepUntil = 5 * time.Minute
)

// keeper keeps in the cache what containerd lacks, but not longer than containerd has the image: it lets go of what
// containerd holds for good, and of an image's content when containerd collects the image's manifest.
type keeper struct {
	cache   *cache.Cache
	runtime *containerd.Store
	// forget drops a manifest from memory.
	forget func(digest.Digest)
	log    logr.Logger
}

// letGo drops what containerd holds as well, until ctx ends. Manifests stay: they are small, and say what else is to
// go when containerd collects the image.
func (k *keeper) letGo(ctx context.Context) error {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		manifests := map[digest.Digest]bool{}
		for _, dgst := range k.cache.Manifests() {
			manifests[dgst] = true
		}
		dropped := 0
		for _, dgst := range k.cache.List() {
			if since, ok := k.runtime.Held(dgst); manifests[dgst] || !ok || time.Since(since) < keepUntil {
				continue
			}
			if err := k.cache.Delete(ctx, dgst); err == nil {
				dropped++
			} else if !errors.Is(err, content.ErrNotFound) {
				k.log.Error(err, "let go of a blob", "digest", dgst)
			}
		}
		if dropped > 0 {
			k.log.Info("cache let go of what containerd holds", "blobs", dropped)
		}
	}
}

// follow drops images from the cache that containerd has collected, until ctx ends.
func (k *keeper) follow(ctx context.Context) error {
	feed := k.runtime.Feed()
	defer feed.Close()
	for {
		change, err := feed.Next(ctx)
		if err != nil {
			return ignoreCancel(err) // It fails only with the context's error.
		}
		for _, dgst := range change.Removed {
			k.forget(dgst)
			k.collected(ctx, dgst)
		}
	}
}

// collected drops a manifest that containerd has collected, with all that only it refers to.
func (k *keeper) collected(ctx context.Context, manifest digest.Digest) {
	doomed := k.tree(ctx, manifest)
	if len(doomed) == 0 {
		return // The cache never had it, or it is no manifest: a layer that was discarded, say.
	}
	for _, other := range k.cache.Manifests() {
		if doomed[other] || !k.runtime.Has(other) {
			continue
		}
		for dgst := range k.tree(ctx, other) {
			delete(doomed, dgst)
		}
	}
	for dgst := range doomed {
		k.forget(dgst)
		if err := k.cache.Forget(ctx, dgst); err != nil {
			k.log.Error(err, "forget what containerd has collected", "digest", dgst)
		}
	}
	k.log.Info("cache dropped an image that containerd has collected", "digest", manifest, "blobs", len(doomed))
}

// tree gives the digests of a cached manifest and of everything below it: none if the cache has no such manifest.
func (k *keeper) tree(ctx context.Context, manifest digest.Digest) map[digest.Digest]bool {
	found := map[digest.Digest]bool{}
	for next := []digest.Digest{manifest}; len(next) > 0; {
		dgst := next[0]
		next = next[1:]
		children, err := k.children(ctx, dgst)
		if err != nil || len(children) == 0 {
			continue
		}
		found[dgst] = true
		for _, child := range children {
			if !found[child] {
				found[child] = true
				next = append(next, child)
			}
		}
	}
	return found
}

// children reads what a cached blob refers to, if it is a manifest.
func (k *keeper) children(ctx context.Context, dgst digest.Digest) ([]digest.Digest, error) {
	blob, err := k.cache.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if blob.Size() > content.MaxManifestBytes {
		return nil, nil
	}
	body, err := content.ReadAll(ctx, blob, content.MaxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dgst, err)
	}
	if content.ManifestType(body) == "" {
		return nil, nil
	}
	described, err := content.Children(body)
	if err != nil {
		return nil, err
	}
	var children []digest.Digest
	for _, d := range described {
		children = append(children, d.Digest)
	}
	return children, nil
}

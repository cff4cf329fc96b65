package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache/internal/eviction"
	"github.com/opencontainers/go-digest"
)

// Open implements content.Store. The blob can't be evicted until it is closed.
func (c *Cache) Open(ctx context.Context, dgst digest.Digest) (content.Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, fmt.Errorf("open %s: %w", dgst, ErrClosed)
	}
	e := c.ledger.use(dgst, c.cfg.Now())
	if e == nil {
		c.mu.Unlock()
		return nil, fmt.Errorf("cache: %s: %w", dgst, content.ErrNotFound)
	}
	mediaType := e.mediaType
	c.mu.Unlock()

	file, err := c.openFile(e)
	if err != nil {
		c.unpin(e)
		return nil, err
	}
	return content.NewFile(file, e.Size, mediaType, func() { c.unpin(e) }), nil
}

// openFile opens a held blob's file. A file that is gone, or that somebody cut short, is a miss and no longer held:
// the mirror must find out before it promises bytes to a client.
func (c *Cache) openFile(e *entry) (*os.File, error) {
	file, err := os.Open(c.dir.blob(e.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		c.drop(e, "its file is gone")
		return nil, fmt.Errorf("cache: %s: its file is gone: %w", e.Digest, content.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache: %w", err), file.Close())
	}
	if info.Size() != e.Size {
		c.drop(e, "its file has the wrong size")
		return nil, errors.Join(
			fmt.Errorf("cache: %s has %d bytes instead of %d: %w", e.Digest, info.Size(), e.Size, content.ErrNotFound),
			file.Close())
	}
	return file, nil
}

// Touch counts a use of a blob without opening it, for one whose bytes were answered from memory: it should not be
// evicted for want of being read. It does nothing if the blob is not held.
func (c *Cache) Touch(dgst digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if e := c.ledger.blobs[dgst]; e != nil {
		c.ledger.touch(e, c.cfg.Now())
	}
}

func (c *Cache) unpin(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.unpin(e)
}

// drop removes a blob that turned out not to be what it should.
func (c *Cache) drop(e *entry, why string) {
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	held := e.Held() && !c.closed
	if held {
		c.ledger.remove(e)
	}
	c.mu.Unlock()
	if held {
		c.log.Info("dropped a blob from the cache", "digest", e.Digest, "reason", why)
		c.unlink(e.Digest)
	}
}

// Delete removes a blob, and gives an error that wraps content.ErrNotFound if it is not held. Who reads it reads on.
func (c *Cache) Delete(_ context.Context, dgst digest.Digest) error {
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	e, closed := c.ledger.blobs[dgst], c.closed
	if e != nil && !closed {
		c.ledger.remove(e)
	}
	c.mu.Unlock()
	switch {
	case closed:
		return fmt.Errorf("delete %s: %w", dgst, ErrClosed)
	case e == nil:
		return fmt.Errorf("cache: %s: %w", dgst, content.ErrNotFound)
	}
	c.unlink(e.Digest)
	return nil
}

// Forget removes a blob and every tag that means it, of whatever registry, and returns when the disk has forgotten the
// tags too. It does nothing where neither is known. Who reads the blob reads on.
func (c *Cache) Forget(ctx context.Context, dgst digest.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tags, err := c.forget(dgst)
	if err == nil && tags > 0 {
		err = c.flush()
	}
	if isNoSpace(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return fmt.Errorf("forget %s: %w", dgst, err)
	}
	return nil
}

// forget does in memory and below blobs/ what Forget does, and tells how many tags there were.
func (c *Cache) forget(dgst digest.Digest) (tags int, err error) {
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, ErrClosed
	}
	e := c.ledger.blobs[dgst]
	if e != nil {
		c.ledger.remove(e)
	}
	tags = c.ledger.deleteTagsOf(dgst)
	c.mu.Unlock()
	if e != nil {
		c.unlink(e.Digest)
	}
	return tags, nil
}

// unlink takes the name from the file of a blob that is no longer held. c.names must be held since before it went.
func (c *Cache) unlink(dgst digest.Digest) {
	if err := os.Remove(c.dir.blob(dgst)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Error(err, "can't remove a blob that is no longer cached; the next start will find it again", "digest", dgst)
	}
}

// evicted removes the files of blobs that the ledger chose as victims. c.names must be held since before that.
func (c *Cache) evicted(victims []*eviction.Blob) {
	for _, b := range victims {
		c.unlink(b.Digest)
		c.log.V(1).Info("evicted a blob from the cache", "digest", b.Digest, "bytes", b.Size, "lastUse", b.LastUse,
			"owner", b.Owner)
	}
	c.evictions.Add(float64(len(victims)))
}

// Manifests gives the digests of the manifests that are held, by what is known of their media types.
func (c *Cache) Manifests() []digest.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []digest.Digest
	for dgst, e := range c.ledger.blobs {
		if content.IsManifestType(e.mediaType) {
			found = append(found, dgst)
		}
	}
	return found
}

// List gives the digests of all blobs that are held.
func (c *Cache) List() []digest.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.ledger.blobs))
}

package cache

import (
	"context"
	"fmt"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Tag implements content.TagStore. Tags are remembered whether the manifest is held or not.
func (c *Cache) Tag(ctx context.Context, ref reference.Reference) (content.Tag, error) {
	if err := ctx.Err(); err != nil {
		return content.Tag{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return content.Tag{}, fmt.Errorf("tag %s: %w", ref, ErrClosed)
	}
	if ref.Tag != "" && ref.Digest == "" {
		if tag, ok := c.ledger.tag(ref.String()); ok {
			return tag, nil
		}
	}
	return content.Tag{}, fmt.Errorf("cache: tag %s: %w", ref, content.ErrNotFound)
}

// SetTag remembers what a tag means; the last call wins. Of the target only media type, digest and size are kept. It
// returns when the disk has it, but for a confirmation of what was known: that is written with the next batch.
//
// When the index can't be written, the tag is remembered until the process ends, and the error says so.
func (c *Cache) SetTag(ctx context.Context, ref reference.Reference, tag content.Tag) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if ref.Tag == "" || ref.Digest != "" {
		return fmt.Errorf("set tag: %s is not a reference by tag", ref)
	}
	target := tag.Target
	if _, err := reference.ParseDigest(target.Digest.String()); err != nil {
		return fmt.Errorf("set tag %s: %w", ref, err)
	}
	if target.Size < 0 || len(target.MediaType) > maxMediaType {
		return fmt.Errorf("set tag %s: a target of %d bytes with a media type of %d characters",
			ref, target.Size, len(target.MediaType))
	}
	tag.Target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	tag.Confirmed = tag.Confirmed.Round(0) // The index can't keep a monotonic reading either.
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return fmt.Errorf("set tag %s: %w", ref, ErrClosed)
	}
	news := c.ledger.setTag(ref.String(), tag)
	c.mu.Unlock()
	if !news {
		return nil
	}
	return c.flushTag("set", ref)
}

// DeleteTag forgets a tag, and returns when the disk has done so too. It does nothing where the tag is not known.
func (c *Cache) DeleteTag(ctx context.Context, ref reference.Reference) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return fmt.Errorf("delete tag %s: %w", ref, ErrClosed)
	}
	existed := c.ledger.deleteTag(ref.String())
	c.mu.Unlock()
	if !existed {
		return nil
	}
	return c.flushTag("delete", ref)
}

func (c *Cache) flushTag(verb string, ref reference.Reference) error {
	err := c.flush()
	if isNoSpace(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return fmt.Errorf("%s tag %s: %w", verb, ref, err)
	}
	return nil
}

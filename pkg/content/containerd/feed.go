package containerd

import (
	"context"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// maxChange bounds the keys of one Change, which is some 500 KiB then.
const maxChange = 4096

// Change is how what is held differs from what a feed told before. Nothing is in it twice.
type Change struct {
	Added   []digest.Digest
	Removed []digest.Digest
	// Tags are those that are new or mean something new, or were confirmed anew.
	Tags []NamedTag
	// Untagged are those that mean nothing any more.
	Untagged []reference.Reference
}

// Len is how many keys changed.
func (c Change) Len() int { return len(c.Added) + len(c.Removed) + len(c.Tags) + len(c.Untagged) }

// NamedTag is a tag and what it means.
type NamedTag struct {
	Ref reference.Reference
	content.Tag
}

// Feed tells one listener what comes and goes, as differences between what it was told and what is held now.
//
// It is pulled rather than pushed, so that a listener is never behind a queue: what came and went between two calls of
// Next it does not hear of, nothing overflows, and nothing is lost, however slow it is. The first differences are
// everything that is held, so there is no snapshot to be brought together with what follows. It costs the memory of
// the keys that it has not told yet, at most all of those once.
//
// A feed belongs to one goroutine.
type Feed struct {
	store *Store
	ready chan struct{}

	// Under the store's lock.
	blobs pending[digest.Digest]
	tags  pending[reference.Reference]
}

// Feed makes a feed, which is to be closed.
func (s *Store) Feed() *Feed {
	f := &Feed{
		store: s, ready: make(chan struct{}, 1),
		blobs: make(pending[digest.Digest]), tags: make(pending[reference.Reference]),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for dgst := range s.ledger.blobs {
		f.blobs[dgst] = fresh
	}
	for _, t := range s.ledger.tags {
		if t.visible {
			f.tags[t.ref] = fresh
		}
	}
	s.ledger.feeds[f] = struct{}{}
	f.poke()
	return f
}

// Next waits until there is something to tell, and tells it. A lot comes in several parts. It fails only with the
// context's error.
func (f *Feed) Next(ctx context.Context) (Change, error) {
	for {
		if c := f.take(); c.Len() > 0 {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return Change{}, ctx.Err()
		case <-f.ready:
		}
	}
}

// Close ends the feed.
func (f *Feed) Close() {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	delete(f.store.ledger.feeds, f)
}

func (f *Feed) take() Change {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	var c Change
	for dgst, state := range f.blobs {
		if c.Len() == maxChange {
			return c
		}
		if state == gone {
			c.Removed = append(c.Removed, dgst)
		} else {
			c.Added = append(c.Added, dgst)
		}
		delete(f.blobs, dgst)
	}
	for ref, state := range f.tags {
		if c.Len() == maxChange {
			return c
		}
		if state == gone {
			c.Untagged = append(c.Untagged, ref)
		} else if tag, ok := f.store.ledger.tag(ref.String()); ok {
			c.Tags = append(c.Tags, NamedTag{Ref: ref, Tag: tag})
		}
		delete(f.tags, ref)
	}
	return c
}

// poke wakes the listener.
func (f *Feed) poke() {
	select {
	case f.ready <- struct{}{}:
	default: // It is awake already.
	}
}

// news is what is to be told of a key.
type news int

const (
	fresh   news = iota // It is held, and the listener has never heard of it.
	changed             // It is held, and the listener has heard something else.
	gone                // It is not held, and the listener has heard that it is.
)

// pending is what is to be told.
type pending[K comparable] map[K]news

// set notes that a key is held. told says that the listener would have heard of it before, if nothing is pending;
// differs, that it would have heard something else.
func (p pending[K]) set(key K, told, differs bool) {
	switch state, ok := p[key]; {
	case !ok && !told:
		p[key] = fresh
	case !ok:
		p[key] = changed
	case state == gone && differs:
		p[key] = changed
	case state == gone:
		delete(p, key) // It went and came back, and the listener need not know.
	}
}

// remove notes that a key that was held is not held any more.
func (p pending[K]) remove(key K) {
	if state, ok := p[key]; ok && state == fresh {
		delete(p, key)
		return
	}
	p[key] = gone
}

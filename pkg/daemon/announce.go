package daemon

import (
	"context"
	"sync"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/opencontainers/go-digest"
)

// holder is a store, as a bit.
type holder uint8

const (
	heldByCache holder = 1 << iota
	heldByContainerd
)

// announcer tells the other members what this one holds, in any of its stores. It is safe for concurrent use, and
// never waits.
type announcer struct {
	// set tells members; it only takes note, and sends in batches.
	set func(add []discovery.Entry, remove []discovery.Key)

	mu   sync.Mutex
	held map[discovery.Key]holder
}

func newAnnouncer(set func([]discovery.Entry, []discovery.Key)) *announcer {
	return &announcer{set: set, held: map[discovery.Key]holder{}}
}

// hold notes that a store holds something, and tells it if that is news. What tags mean is told each time.
func (a *announcer) hold(by holder, e discovery.Entry) (news bool) {
	before := a.held[e.Key]
	a.held[e.Key] = before | by
	return before == 0 || e.Digest != ""
}

// drop notes that a store holds something no more, and tells whether none does.
func (a *announcer) drop(by holder, key discovery.Key) (gone bool) {
	left := a.held[key] &^ by
	if left != 0 {
		a.held[key] = left
		return false
	}
	_, was := a.held[key]
	delete(a.held, key)
	return was
}

func (a *announcer) update(by holder, add []discovery.Entry, remove []discovery.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var news []discovery.Entry
	for _, e := range add {
		if a.hold(by, e) {
			news = append(news, e)
		}
	}
	var gone []discovery.Key
	for _, key := range remove {
		if a.drop(by, key) {
			gone = append(gone, key)
		}
	}
	if len(news)+len(gone) > 0 {
		a.set(news, gone)
	}
}

// Blob implements cache.Observer.
func (a *announcer) Blob(dgst digest.Digest, held bool) {
	key := discovery.DigestKey(dgst)
	if held {
		a.update(heldByCache, []discovery.Entry{{Key: key}}, nil)
		return
	}
	a.update(heldByCache, nil, []discovery.Key{key})
}

// Tag implements cache.Observer.
func (a *announcer) Tag(name string, tag content.Tag, known bool) {
	key := discovery.TagKey(name)
	if known {
		a.update(heldByCache, []discovery.Entry{{Key: key, Digest: tag.Target.Digest, Confirmed: tag.Confirmed}}, nil)
		return
	}
	a.update(heldByCache, nil, []discovery.Key{key})
}

// follow tells what containerd holds until ctx ends.
func (a *announcer) follow(ctx context.Context, store *containerd.Store) error {
	feed := store.Feed()
	defer feed.Close()
	for {
		change, err := feed.Next(ctx)
		if err != nil {
			return ignoreCancel(err) // It fails only with the context's error.
		}
		var add []discovery.Entry
		for _, dgst := range change.Added {
			add = append(add, discovery.Entry{Key: discovery.DigestKey(dgst)})
		}
		for _, t := range change.Tags {
			add = append(add, discovery.Entry{Key: discovery.TagKey(t.Ref.String()), Digest: t.Target.Digest, Confirmed: t.Confirmed})
		}
		var remove []discovery.Key
		for _, dgst := range change.Removed {
			remove = append(remove, discovery.DigestKey(dgst))
		}
		for _, ref := range change.Untagged {
			remove = append(remove, discovery.TagKey(ref.String()))
		}
		a.update(heldByContainerd, add, remove)
	}
}

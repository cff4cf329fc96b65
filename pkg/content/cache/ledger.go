package cache

import (
	"container/list"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache/internal/eviction"
	"github.com/opencontainers/go-digest"
)

// limits are the bounds that a ledger keeps, as Config describes them.
type limits struct {
	bytes, spool int64
	blobs, tags  int
}

// entry is one blob that is held, or that was and is still being read.
type entry struct {
	eviction.Blob
	mediaType string
}

type tagEntry struct {
	name string
	tag  content.Tag
}

// ledger knows what is held, what came of blobs on their way, and what of all that the index does not know yet. It does
// no I/O, has no clock and is not safe for concurrent use.
//
// Always: what eviction.Policy says of blobs, no more than limits.spool of the spool is used, and len(tags) <=
// limits.tags (once trim was called after a start).
type ledger struct {
	limits limits

	blobs  map[digest.Digest]*entry
	policy *eviction.Policy
	spool  *eviction.Budget // Of blobs on their way that won't be kept.

	tags      map[string]*list.Element
	confirmed *list.List // Of *tagEntry, the last confirmed one in front.

	changedBlobs map[digest.Digest]struct{}
	changedTags  map[string]struct{}

	observer Observer // Never nil.
}

func newLedger(l limits) *ledger {
	return &ledger{
		limits:       l,
		blobs:        make(map[digest.Digest]*entry),
		policy:       eviction.New(eviction.Bounds{Bytes: l.bytes, Blobs: l.blobs}),
		spool:        eviction.NewBudget(l.spool),
		tags:         make(map[string]*list.Element),
		confirmed:    list.New(),
		changedBlobs: make(map[digest.Digest]struct{}),
		changedTags:  make(map[string]struct{}),
		observer:     nobody{},
	}
}

// nobody is an Observer that does not look.
type nobody struct{}

func (nobody) Blob(digest.Digest, bool)      {}
func (nobody) Tag(string, content.Tag, bool) {}

// use counts a use of a held blob and pins it until unpin. It gives nil if the blob is not held.
func (l *ledger) use(dgst digest.Digest, now time.Time) *entry {
	e := l.blobs[dgst]
	if e == nil {
		return nil
	}
	l.policy.Pin(&e.Blob)
	l.touch(e, now)
	return e
}

// touch counts a use of a held blob.
func (l *ledger) touch(e *entry, now time.Time) {
	if l.policy.Use(&e.Blob, now) {
		l.changedBlobs[e.Digest] = struct{}{}
	}
}

func (l *ledger) unpin(e *entry) { l.policy.Unpin(&e.Blob) }

// add makes a blob held, and counts a use of it. One that was held by that digest is gone, but what was known of it
// stays: it is the same content.
func (l *ledger) add(dgst digest.Digest, size int64, mediaType string, owner content.Owner, now time.Time) *entry {
	r := record{Size: size, MediaType: mediaType, Owner: owner, LastUse: now}
	if old := l.blobs[dgst]; old != nil {
		r = old.record()
		r.Place, r.MediaType, r.Owner = 0, mergeMediaType(old.mediaType, mediaType), l.policy.Fairest(&old.Blob, owner)
		l.remove(old)
	}
	l.changedBlobs[dgst] = struct{}{}
	e := l.insert(dgst, r)
	l.touch(e, now)
	return e
}

// insert makes a blob held that is not held yet, and takes it as known to the index.
func (l *ledger) insert(dgst digest.Digest, r record) *entry {
	dgst = digest.Digest(strings.Clone(string(dgst))) // It may be cut from a request's text, and should not keep that.
	e := &entry{mediaType: r.MediaType, Blob: eviction.Blob{
		Digest: dgst, Owner: r.Owner, Size: r.Size, LastUse: r.LastUse, Segment: r.Segment, Uses: r.Uses, Place: r.Place,
	}}
	l.blobs[dgst] = e
	l.policy.Insert(&e.Blob)
	l.observer.Blob(dgst, true)
	return e
}

// remove makes a blob no longer held. Its bytes count until its last reader is done.
func (l *ledger) remove(e *entry) {
	if e.Held() {
		l.policy.Remove(&e.Blob)
		l.removed(&e.Blob)
	}
}

// removed takes note that the policy has removed a blob.
func (l *ledger) removed(b *eviction.Blob) {
	delete(l.blobs, b.Digest)
	l.changedBlobs[b.Digest] = struct{}{}
	l.observer.Blob(b.Digest, false)
}

// evicted is removed for all that the policy has evicted. It gives them.
func (l *ledger) evicted(victims []*eviction.Blob) []*eviction.Blob {
	for _, b := range victims {
		l.removed(b)
	}
	return victims
}

// brought takes note that a held blob was brought once more, by whom, and with which media type.
func (l *ledger) brought(e *entry, mediaType string, owner content.Owner) {
	better, fairest := mergeMediaType(e.mediaType, mediaType), l.policy.Fairest(&e.Blob, owner)
	if better != e.mediaType || fairest != e.Owner {
		e.mediaType = better
		l.policy.Charge(&e.Blob, fairest)
		l.changedBlobs[e.Digest] = struct{}{}
	}
}

// mergeMediaType gives what is known of a held blob's media type after somebody has said one: what is known is never
// replaced, whoever says otherwise.
func mergeMediaType(known, said string) string {
	if known != "" {
		return known
	}
	return said
}

// trim removes and gives what is above the bounds: they may have been lowered since the last start.
func (l *ledger) trim() []*eviction.Blob {
	for len(l.tags) > l.limits.tags {
		l.forgetOldest()
	}
	return l.evicted(l.policy.Trim())
}

// tag gives what a tag means.
func (l *ledger) tag(name string) (content.Tag, bool) {
	place := l.tags[name]
	if place == nil {
		return content.Tag{}, false
	}
	return place.Value.(*tagEntry).tag, true
}

// setTag notes what a tag means, and tells whether that is news: it is not when only the confirmation is newer.
func (l *ledger) setTag(name string, tag content.Tag) (news bool) {
	l.changedTags[name] = struct{}{}
	if place := l.tags[name]; place != nil {
		e := place.Value.(*tagEntry)
		news = e.tag.Target.Digest != tag.Target.Digest || e.tag.Target.MediaType != tag.Target.MediaType ||
			e.tag.Target.Size != tag.Target.Size
		e.tag = tag
		l.confirmed.MoveToFront(place)
		l.observer.Tag(name, tag, true)
		return news
	}
	for len(l.tags) > 0 && len(l.tags) >= l.limits.tags {
		l.forgetOldest()
	}
	l.insertTag(name, tag)
	return true
}

// insertTag adds a tag that is not known yet, and takes it as known to the index.
func (l *ledger) insertTag(name string, tag content.Tag) {
	l.tags[name] = l.confirmed.PushFront(&tagEntry{name: name, tag: tag})
	l.observer.Tag(name, tag, true)
}

func (l *ledger) deleteTag(name string) (existed bool) {
	place := l.tags[name]
	if place == nil {
		return false
	}
	l.confirmed.Remove(place)
	delete(l.tags, name)
	l.observer.Tag(name, content.Tag{}, false)
	l.changedTags[name] = struct{}{}
	return true
}

// deleteTagsOf forgets all tags that mean a digest, and tells how many those were.
func (l *ledger) deleteTagsOf(dgst digest.Digest) (deleted int) {
	for name, place := range l.tags {
		if place.Value.(*tagEntry).tag.Target.Digest == dgst && l.deleteTag(name) {
			deleted++
		}
	}
	return deleted
}

func (l *ledger) forgetOldest() { l.deleteTag(l.confirmed.Back().Value.(*tagEntry).name) }

package cache

import (
	"container/list"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// limits are the bounds that a ledger keeps, as Config describes them.
type limits struct {
	bytes, spool int64
	blobs, tags  int
}

// entry is one blob that is held, or that was and is still being read.
type entry struct {
	digest    digest.Digest
	size      int64
	mediaType string
	lastUse   time.Time
	pins      int
	place     *list.Element // Nil once the blob is no longer held.
}

func (e *entry) held() bool { return e.place != nil }

type tagEntry struct {
	name string
	tag  content.Tag
}

// ledger knows what is held, in which order it was used, what is promised to blobs on their way, and what of all that
// the index does not know yet. It does no I/O, has no clock and is not safe for concurrent use.
//
// Always: bytes+reserved <= limits.bytes, len(blobs)+arriving <= limits.blobs, spooled <= limits.spool and
// len(tags) <= limits.tags (once trim was called after a start).
type ledger struct {
	limits limits

	blobs  map[digest.Digest]*entry
	recent *list.List // Of *entry, the last used one in front.
	bytes  int64      // Of all entries, those included that are only held by their readers.

	pinnedBytes int64 // The part of bytes that can't be evicted.
	pinnedBlobs int   // How many of blobs can't be evicted.

	reserved int64 // Bytes promised to blobs on their way that will be kept.
	arriving int   // How many those are.
	spooled  int64 // Bytes promised to blobs on their way that won't be kept.

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
		recent:       list.New(),
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
	if e.pins == 0 {
		l.pinnedBytes += e.size
		l.pinnedBlobs++
	}
	e.pins++
	e.lastUse = now
	l.recent.MoveToFront(e.place)
	l.changedBlobs[dgst] = struct{}{}
	return e
}

func (l *ledger) unpin(e *entry) {
	e.pins--
	if e.pins > 0 {
		return
	}
	l.pinnedBytes -= e.size
	if e.held() {
		l.pinnedBlobs--
		return
	}
	l.bytes -= e.size // The last reader of a blob that is gone has closed its file, so its space is free now.
}

// add makes a blob held, as the one that was used last. A blob that was held by that digest is gone.
func (l *ledger) add(dgst digest.Digest, size int64, mediaType string, now time.Time) *entry {
	if old := l.blobs[dgst]; old != nil {
		mediaType = betterMediaType(old.mediaType, mediaType)
		l.remove(old)
	}
	l.changedBlobs[dgst] = struct{}{}
	return l.insert(dgst, record{Size: size, MediaType: mediaType, LastUse: now})
}

// insert makes a blob held that is not held yet, and takes it as known to the index.
func (l *ledger) insert(dgst digest.Digest, r record) *entry {
	dgst = digest.Digest(strings.Clone(string(dgst))) // It may be cut from a request's text, and should not keep that.
	e := &entry{digest: dgst, size: r.Size, mediaType: r.MediaType, lastUse: r.LastUse}
	e.place = l.recent.PushFront(e)
	l.blobs[dgst] = e
	l.bytes += e.size
	l.observer.Blob(dgst, true)
	return e
}

// remove makes a blob no longer held. Its bytes count until its last reader is done.
func (l *ledger) remove(e *entry) {
	if !e.held() {
		return
	}
	l.recent.Remove(e.place)
	e.place = nil
	delete(l.blobs, e.digest)
	l.changedBlobs[e.digest] = struct{}{}
	l.observer.Blob(e.digest, false)
	if e.pins > 0 {
		l.pinnedBlobs--
	} else {
		l.bytes -= e.size
	}
}

// retype notes a media type for a held blob.
func (l *ledger) retype(e *entry, mediaType string) {
	if better := betterMediaType(e.mediaType, mediaType); better != e.mediaType {
		e.mediaType = better
		l.changedBlobs[e.digest] = struct{}{}
	}
}

// betterMediaType chooses between what was known of a blob and what is said of it now. What says nothing in particular
// never replaces what does: registries call everything an octet stream that is asked for as a blob.
func betterMediaType(old, now string) string {
	const anything = "application/octet-stream"
	if now == "" || (old != "" && now == anything) {
		return old
	}
	return now
}

// fits tells whether the blob could be kept if everything were evicted that can be.
func (l *ledger) fits(size int64) bool {
	return size <= l.limits.bytes-l.reserved-l.pinnedBytes && l.arriving+l.pinnedBlobs < l.limits.blobs
}

// reserve promises space to a blob on its way that will be kept, and removes and gives those that have to go for it.
// With evict false it changes nothing if some would have to go. ok tells whether the space was promised.
func (l *ledger) reserve(size int64, evict bool) (victims []*entry, ok bool) {
	if !l.fits(size) {
		return nil, false
	}
	excess := func() bool {
		return size > l.limits.bytes-l.reserved-l.bytes || l.arriving+len(l.blobs) >= l.limits.blobs
	}
	if !evict && excess() {
		return nil, false
	}
	victims = l.evictWhile(excess)
	l.reserved += size
	l.arriving++
	return victims, true
}

// release takes a promise of reserve back.
func (l *ledger) release(size int64) {
	l.reserved -= size
	l.arriving--
}

// spool promises space to a blob on its way that won't be kept. It ends with unspool.
func (l *ledger) spool(size int64) bool {
	if size > l.limits.spool-l.spooled {
		return false
	}
	l.spooled += size
	return true
}

func (l *ledger) unspool(size int64) { l.spooled -= size }

// free removes and gives the least recently used blobs that together have at least size bytes, or none if those that
// may go have less.
func (l *ledger) free(size int64) []*entry {
	if size > l.bytes-l.pinnedBytes {
		return nil
	}
	target := l.bytes - size
	return l.evictWhile(func() bool { return l.bytes > target })
}

// trim removes and gives what is above the bounds: they may have been lowered since the last start.
func (l *ledger) trim() []*entry {
	for len(l.tags) > l.limits.tags {
		l.forgetOldest()
	}
	return l.evictWhile(func() bool { return l.bytes > l.limits.bytes || len(l.blobs) > l.limits.blobs })
}

// evictWhile removes and gives blobs that nobody reads, the least recently used first.
func (l *ledger) evictWhile(more func() bool) []*entry {
	var victims []*entry
	for place := l.recent.Back(); place != nil && more(); {
		e := place.Value.(*entry)
		place = place.Prev()
		if e.pins == 0 {
			l.remove(e)
			victims = append(victims, e)
		}
	}
	return victims
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

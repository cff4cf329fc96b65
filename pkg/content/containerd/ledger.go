package containerd

import (
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ledger is what containerd is known to hold. It is pure state: no I/O, no clock, no lock of its own.
//
// A tag is visible while one of the image records that give it a meaning has its manifest among the blobs. Feeds hear
// of blobs, and of visible tags.
type ledger struct {
	maxBlobs, maxTags int

	blobs   map[digest.Digest]*blob
	tags    map[string]*tag                     // By full name.
	records map[source]string                   // The full name that each image record is about.
	targets map[digest.Digest]map[*tag]struct{} // The tags that some record says mean this.
	claims  map[source]content.Claim            // What the records say of repositories, those without a tag as well.
	visible int                                 // How many tags are.
	feeds   map[*Feed]struct{}
}

type blob struct {
	size  int64
	since time.Time
	// mediaType is that of a manifest; empty is what everything else has, and what was not looked at yet.
	mediaType string
	sniffed   bool
}

// source is an image record: two may mean the same tag, for there are several namespaces and several ways to write a
// name.
type source struct{ namespace, name string }

// record is what an image record says.
type record struct {
	ref reference.Reference
	meaning
}

// meaning is a content.Tag that can be compared.
type meaning struct {
	mediaType string
	target    digest.Digest
	size      int64
	confirmed time.Time
}

func (m meaning) tag() content.Tag {
	return content.Tag{
		Target:    ocispec.Descriptor{MediaType: m.mediaType, Digest: m.target, Size: m.size},
		Confirmed: m.confirmed,
	}
}

type tag struct {
	ref     reference.Reference
	claims  map[source]meaning
	current meaning
	visible bool
}

func newLedger(maxBlobs, maxTags int) *ledger {
	return &ledger{
		maxBlobs: maxBlobs, maxTags: maxTags,
		blobs:   make(map[digest.Digest]*blob),
		tags:    make(map[string]*tag),
		records: make(map[source]string),
		claims:  make(map[source]content.Claim),
		targets: make(map[digest.Digest]map[*tag]struct{}),
		feeds:   make(map[*Feed]struct{}),
	}
}

// put notes that a blob is held. It says whether that was news, and whether there was room for it.
func (l *ledger) put(dgst digest.Digest, size int64, since time.Time) (news, room bool) {
	if b := l.blobs[dgst]; b != nil {
		if b.size == size {
			return false, true
		}
		l.drop(dgst) // It came back different, so whatever was told of it is wrong.
	}
	if len(l.blobs) >= l.maxBlobs {
		return false, false
	}
	l.blobs[dgst] = &blob{size: size, since: since}
	for f := range l.feeds {
		f.blobs.set(dgst, false, false)
		f.poke()
	}
	for t := range l.targets[dgst] {
		l.refresh(t)
	}
	return true, true
}

// drop notes that a blob is not held. It says whether that was news.
func (l *ledger) drop(dgst digest.Digest) bool {
	if l.blobs[dgst] == nil {
		return false
	}
	delete(l.blobs, dgst)
	for f := range l.feeds {
		f.blobs.remove(dgst)
		f.poke()
	}
	for t := range l.targets[dgst] {
		l.refresh(t)
	}
	return true
}

// setClaim notes what an image record says of a repository; not ok is a record that says nothing, or is gone. It says
// whether there was room for it.
func (l *ledger) setClaim(src source, c content.Claim, ok bool) (room bool) {
	if !ok {
		delete(l.claims, src)
		return true
	}
	if _, known := l.claims[src]; !known && len(l.claims) >= claimsPerTag*l.maxTags {
		return false
	}
	l.claims[src] = c
	return true
}

// setClaims notes what all image records of a namespace say of repositories. It says whether there was room for them.
func (l *ledger) setClaims(namespace string, claims map[string]content.Claim) (room bool) {
	for src := range l.claims {
		if _, ok := claims[src.name]; !ok && src.namespace == namespace {
			delete(l.claims, src)
		}
	}
	room = true
	for name, c := range claims {
		room = l.setClaim(source{namespace, name}, c, true) && room
	}
	return room
}

// claimsPerTag is how many records there may be of one image: CRI makes one by tag and one by digest.
const claimsPerTag = 2

// missing gives the blobs that are not among those seen.
func (l *ledger) missing(seen map[digest.Digest]struct{}) []digest.Digest {
	var gone []digest.Digest
	for dgst := range l.blobs {
		if _, ok := seen[dgst]; !ok {
			gone = append(gone, dgst)
		}
	}
	return gone
}

// setRecord notes what an image record says. It says whether there was room for it.
func (l *ledger) setRecord(src source, r record) (room bool) {
	name := r.ref.String()
	if t := l.tags[name]; t != nil && l.records[src] == name && t.claims[src] == r.meaning {
		return true
	}
	l.removeRecord(src)
	if len(l.records) >= l.maxTags {
		return false
	}
	t := l.tags[name]
	if t == nil {
		t = &tag{ref: r.ref, claims: make(map[source]meaning)}
		l.tags[name] = t
	}
	l.records[src] = name
	t.claims[src] = r.meaning
	dgst := r.target
	if l.targets[dgst] == nil {
		l.targets[dgst] = make(map[*tag]struct{})
	}
	l.targets[dgst][t] = struct{}{}
	l.refresh(t)
	return true
}

// removeRecord notes that there is no such image record.
func (l *ledger) removeRecord(src source) {
	name, ok := l.records[src]
	if !ok {
		return
	}
	delete(l.records, src)
	t := l.tags[name]
	dgst := t.claims[src].target
	delete(t.claims, src)
	shared := false
	for _, claim := range t.claims {
		shared = shared || claim.target == dgst
	}
	if !shared {
		delete(l.targets[dgst], t)
		if len(l.targets[dgst]) == 0 {
			delete(l.targets, dgst)
		}
	}
	l.refresh(t)
	if len(t.claims) == 0 {
		delete(l.tags, name)
	}
}

// setRecords notes what all image records of a namespace say. It says whether there was room for them.
func (l *ledger) setRecords(namespace string, records map[string]record) (room bool) {
	for src := range l.records {
		if _, ok := records[src.name]; !ok && src.namespace == namespace {
			l.removeRecord(src)
		}
	}
	room = true
	for name, r := range records {
		room = l.setRecord(source{namespace, name}, r) && room
	}
	return room
}

// tag gives what a visible tag means.
func (l *ledger) tag(name string) (content.Tag, bool) {
	if t := l.tags[name]; t != nil && t.visible {
		return t.current.tag(), true
	}
	return content.Tag{}, false
}

// refresh works out what a tag means now, and has feeds told if that changed: the newest of the records whose
// manifest is held.
func (l *ledger) refresh(t *tag) {
	var newest meaning
	found := false
	for _, claim := range t.claims {
		if b := l.blobs[claim.target]; b == nil || b.size != claim.size {
			continue
		}
		// Of two that were written at once, any will do as long as it is always the same.
		if !found || claim.confirmed.After(newest.confirmed) ||
			claim.confirmed.Equal(newest.confirmed) && claim.target > newest.target {
			newest, found = claim, true
		}
	}
	if found == t.visible && newest == t.current {
		return
	}
	was := t.visible
	t.visible, t.current = found, newest
	switch {
	case found && !was:
		l.visible++
	case was && !found:
		l.visible--
	}
	for f := range l.feeds {
		if found {
			f.tags.set(t.ref, was, true)
		} else {
			f.tags.remove(t.ref)
		}
		f.poke()
	}
}

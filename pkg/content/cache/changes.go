package cache

import (
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache/internal/eviction"
	"github.com/opencontainers/go-digest"
)

// recordVersion is the version of records whose media types are what the bytes say, where these say one. Those of
// earlier versions have what was declared.
const recordVersion = 1

// record is what the index says of a blob. Fields that earlier versions did not write are empty in what they wrote.
type record struct {
	Size      int64            `json:"size"`
	MediaType string           `json:"mediaType,omitempty"`
	LastUse   time.Time        `json:"lastUse"`
	Owner     content.Owner    `json:"owner,omitempty"`
	Segment   eviction.Segment `json:"segment,omitempty"`
	Uses      uint8            `json:"uses,omitempty"`
	Place     uint64           `json:"place,omitempty"`
	Version   int              `json:"version,omitempty"`
}

func (e *entry) record() record {
	return record{
		Size: e.Size, MediaType: e.mediaType, LastUse: e.LastUse, Owner: e.Owner, Segment: e.Segment, Uses: e.Uses,
		Place: e.Place, Version: recordVersion,
	}
}

// changes is what the index has to be told. A nil value deletes.
type changes struct {
	blobs map[digest.Digest]*record
	tags  map[string]*content.Tag
}

func (c changes) empty() bool { return len(c.blobs) == 0 && len(c.tags) == 0 }

// takeChanges gives what the index does not know yet, and takes it as known.
func (l *ledger) takeChanges() changes {
	batch := changes{
		blobs: make(map[digest.Digest]*record, len(l.changedBlobs)),
		tags:  make(map[string]*content.Tag, len(l.changedTags)),
	}
	for dgst := range l.changedBlobs {
		batch.blobs[dgst] = nil
		if e := l.blobs[dgst]; e != nil {
			r := e.record()
			batch.blobs[dgst] = &r
		}
	}
	for name := range l.changedTags {
		batch.tags[name] = nil
		if tag, ok := l.tag(name); ok {
			batch.tags[name] = &tag
		}
	}
	clear(l.changedBlobs)
	clear(l.changedTags)
	return batch
}

// giveBack says that changes could not be written. What they said may be outdated by now, so only the keys matter.
func (l *ledger) giveBack(batch changes) {
	for dgst := range batch.blobs {
		l.changedBlobs[dgst] = struct{}{}
	}
	for name := range batch.tags {
		l.changedTags[name] = struct{}{}
	}
}

// touchAll says that the index knows nothing.
func (l *ledger) touchAll() {
	for dgst := range l.blobs {
		l.changedBlobs[dgst] = struct{}{}
	}
	for name := range l.tags {
		l.changedTags[name] = struct{}{}
	}
}

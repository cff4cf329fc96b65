package cache

import (
	"strconv"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLedgerTags(t *testing.T) {
	l := newLedger(limits{bytes: 1, blobs: 1, tags: 3})
	tag := func(i int) content.Tag {
		return content.Tag{Target: ocispec.Descriptor{Digest: digest.FromString(strconv.Itoa(i))}}
	}
	for i, name := range []string{"a", "b", "c"} {
		if !l.setTag(name, tag(i)) {
			t.Errorf("a new tag is no news")
		}
	}
	if l.setTag("a", tag(0)) {
		t.Error("a confirmation is news")
	}
	if !l.setTag("b", tag(9)) {
		t.Error("a tag that moved is no news")
	}
	l.setTag("d", tag(3)) // "c" was confirmed the longest ago.
	for name, want := range map[string]bool{"a": true, "b": true, "c": false, "d": true} {
		if _, ok := l.tag(name); ok != want {
			t.Errorf("tag %s is known: %v, want %v", name, ok, want)
		}
	}
	batch := l.takeChanges()
	if batch.tags["c"] != nil || batch.tags["b"].Target.Digest != tag(9).Target.Digest || len(batch.tags) != 4 {
		t.Errorf("changes are %v", batch.tags)
	}
	if !l.takeChanges().empty() {
		t.Error("changes are taken twice")
	}
	l.giveBack(batch)
	l.deleteTag("b")
	if again := l.takeChanges(); again.tags["b"] != nil || again.tags["a"] == nil {
		t.Errorf("changes that were given back are %v", again.tags)
	}
}

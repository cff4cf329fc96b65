package swarm

import (
	"fmt"
	"slices"
	"time"
)

// A blob's size is what members believe before they have any of it: a manifest said so, and anybody can write one. So
// those who believe in different sizes are different swarms, which share nothing: else a single wrong word would cut
// the blob into pieces that nobody has, for everybody. Who learns better announces the other size, and is with the
// others then. What is one piece, or of unknown size, is one swarm, for there is nothing to disagree on.

// maxSizes is how many sizes of one blob are believed in at once. One more forgets that of fewest members.
const maxSizes = 8

// Group names those who get a blob of the same size together, as Changed knows them. Who does not know the size joins
// most of those who do.
func (t *Tracker) Group(name string, size int64) string {
	switch {
	case size >= OnePiece:
		return groupOf(name, size)
	case size >= 0:
		return name
	}
	best := name
	for i, b := range t.sized[name] {
		if other := t.blobs[best]; i == 0 || len(b.order) > len(other.order) || len(b.order) == len(other.order) && b.size < other.size {
			best = groupOf(name, b.size)
		}
	}
	return best
}

func groupOf(name string, size int64) string { return fmt.Sprintf("%s+%d", name, size) }

// start makes a blob that nobody has announced yet.
func (t *Tracker) start(name, group string, size int64) *blob {
	t.makeRoom()
	b := newBlob(&t.cfg, &t.version, name)
	t.blobs[group] = b
	if group == name {
		return b
	}
	b.size = size
	b.cut(NewLayout(size))
	if others := t.sized[name]; len(others) >= maxSizes {
		least := slices.MinFunc(others, func(a, c *blob) int {
			if n := len(a.order) - len(c.order); n != 0 {
				return n
			}
			return a.seen.Compare(c.seen)
		})
		t.forget(groupOf(name, least.size))
	}
	t.sized[name] = append(t.sized[name], b)
	return b
}

// forget drops a blob.
func (t *Tracker) forget(group string) {
	b := t.blobs[group]
	delete(t.blobs, group)
	rest := slices.DeleteFunc(t.sized[b.name], func(o *blob) bool { return o == b })
	if len(rest) == 0 {
		delete(t.sized, b.name)
		return
	}
	t.sized[b.name] = rest
}

// leave takes a member out of the groups of a blob that it is in no more: all but one, or all if it leaves.
func (t *Tracker) leave(now time.Time, name, group string, a Announce) {
	out := func(b *blob, of string) {
		if b != nil && (a.Leaving || of != group) {
			b.sweep(now)
			b.remove(now, b.members[a.Member])
		}
	}
	out(t.blobs[name], name)
	for _, b := range t.sized[name] {
		out(b, groupOf(name, b.size))
	}
}

// sizeFor gives the size that a member is told, which is its own if it has one.
func (b *blob) sizeFor(size int64) int64 {
	if size >= 0 {
		return size
	}
	return b.size
}

package tracker

import (
	"fmt"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// Whoever has the cluster's key can announce, and can be a tracker. So all that members say is checked before anything
// is done with it: what no member can mean ends the conversation, and has an effect on nobody else's.

const (
	// maxPartners bounds how many members one exchanges pieces with. They are some twenty.
	maxPartners = 1024
	// maxFetched is how many times its size a blob can have been fetched: parts may come twice. What is one piece counts
	// otherwise.
	maxFetched = 64
	// maxAgain bounds when an announce is due again.
	maxAgain = time.Minute
)

// bad is a message that breaks the protocol.
func bad(kind peer.Kind, format string, args ...any) error {
	return fmt.Errorf("%w: %w", errMalformed, peer.Violate(kind, format, args...))
}

func checkKey(key string) error {
	if len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return bad(peer.BadMessage, "key of %d bytes: %.80q", len(key), key)
	}
	name, scope, scoped := strings.Cut(key, apart)
	if scoped && (len(scope) == 0 || len(scope) > maxScope || strings.Trim(scope, "0123456789abcdef") != "") {
		return bad(peer.BadMessage, "key for %.80q", scope)
	}
	if isTag(name) {
		return nil // It is opaque here.
	}
	if _, err := DigestOf(key); err != nil {
		return bad(peer.BadDigest, "key: %v", err)
	}
	return nil
}

// checkSize tells whether a size is one; -1 is none.
func checkSize(size int64) error {
	if size == -1 {
		return nil
	}
	if err := peer.CheckSize(size); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return nil
}

// checkMS tells whether a time in milliseconds is one of up to so long.
func checkMS(what string, ms int64, most time.Duration) error {
	if ms < 0 || ms > most.Milliseconds() {
		return bad(peer.BadAge, "%s: %d ms", what, ms)
	}
	return nil
}

// checkLeases tells whether all ranges lie in a blob of that size, which is negative if it is not known. A negative end
// is the blob's.
func checkLeases(leases []swarm.Lease, size int64) error {
	if size < 0 {
		size = swarm.MaxSize
	}
	for _, l := range leases {
		empty := l.Start == 0 && l.End == 0 // Of nothing, one can have a lease too.
		if l.Start < 0 || l.Start > size || l.End > size || l.End < -1 || l.End >= 0 && l.End <= l.Start && !empty {
			return bad(peer.BadRange, "lease of [%d, %d) on %d bytes", l.Start, l.End, size)
		}
	}
	return nil
}

// checkTag tells whether a tag can mean something like that.
func checkTag(v *TagValue) error {
	if v == nil {
		return nil
	}
	if v.Target.Size < 0 || v.Target.Size > content.MaxManifestBytes {
		return bad(peer.BadSize, "a tag that means %d bytes", v.Target.Size)
	}
	if v.Target.MediaType == "" {
		return nil // It is not known.
	}
	if err := peer.CheckMediaType(v.Target.MediaType); err != nil {
		return fmt.Errorf("%w: tag: %w", errMalformed, err)
	}
	return nil
}

// check tells whether a member can mean what it asks.
func (q *question) check() error {
	a := &q.announce
	most := swarm.NewLayout(a.Size).Pieces()
	if a.Size < 0 {
		most = 0
	}
	last := -1
	for last = range a.Have.All { // The last one that it has.
	}
	fetched := int64(swarm.MaxSize)
	if a.Size >= swarm.OnePiece {
		fetched = min(fetched, maxFetched*a.Size)
	}
	var err error
	switch {
	case q.value != nil && !isTag(q.key):
		err = bad(peer.BadMessage, "a digest with a meaning")
	case last >= most:
		err = bad(peer.BadPiece, "piece %d of a blob of %d bytes", last, a.Size)
	case a.Fetched < 0 || a.Fetched > fetched:
		err = bad(peer.BadSize, "%d bytes fetched of a blob of %d", a.Fetched, a.Size)
	case a.Partners < 0 || a.Partners > maxPartners:
		err = bad(peer.BadCount, "%d partners", a.Partners)
	case a.Upstream > swarm.Never:
		err = bad(peer.BadMessage, "word of upstream %d", a.Upstream)
	case len(a.Reading) > maxReading || len(q.avoid) > maxAvoid:
		err = bad(peer.BadCount, "%d leases, %d members to avoid", len(a.Reading), len(q.avoid))
	default:
		err = checkLeases(a.Reading, a.Size)
	}
	return err
}

// check tells whether a tracker can mean this answer to a question.
func (a *Answer) check(q *question) error {
	size := q.announce.Size
	switch {
	case size < 0:
		size = a.Size
	case a.Size >= 0 && a.Size != size:
		return bad(peer.BadSize, "%d bytes, asked about %d", a.Size, size)
	}
	if a.Value != nil && !isTag(q.key) {
		return bad(peer.BadMessage, "a digest with a meaning")
	}
	if _, self := a.Members[ID(q.from.ID)]; self {
		return bad(peer.BadMember, "we are introduced to ourselves")
	}
	return checkLeases(a.Leases, size)
}

// checkNames tells whether all that an answer names are among those that it introduces.
func (a *Answer) checkNames(closer []discovery.Member) error {
	if max(len(a.Members), len(a.Holders), len(a.Neighbours), len(closer)) > maxNamed || len(a.Leases) > maxLeases {
		return bad(peer.BadCount, "%d members, %d leases", len(a.Members), len(a.Leases))
	}
	known := func(id swarm.ID) bool { _, ok := a.Members[id]; return ok }
	for _, id := range a.Holders {
		if !known(id) {
			return bad(peer.BadMember, "holder %.80q is not introduced", string(id))
		}
	}
	for _, n := range a.Neighbours {
		if !known(n.Member) {
			return bad(peer.BadMember, "neighbour %.80q is not introduced", string(n.Member))
		}
	}
	for _, l := range a.Leases {
		if l.From != "" && !known(l.From) {
			return bad(peer.BadMember, "holder %.80q is not introduced", string(l.From))
		}
	}
	return nil
}

package swarm

import (
	"math/rand/v2"
	"time"
)

// TrackerConfig is what a Tracker needs.
type TrackerConfig struct {
	// Rand is the source of all its choices. Required.
	Rand *rand.Rand
	// Blobs is how many it knows at most; one more forgets the one that was announced longest ago. 0 means 4096.
	Blobs int
	// Members is how many it knows for each blob; one more is told to go on as without a swarm. 0 means 16384.
	Members int
	// UpstreamLeases is how many members fetch from upstream at once. Upstreams send each connection only so much, so
	// that several fetch a blob faster than one; too many annoy them. 0 means 8.
	UpstreamLeases int
	// Expiry is after how long without an announcement a member is taken for gone. 0 means 4 seconds.
	Expiry time.Duration
	// Patience is after how long without progress a member's leases return. 0 means 3 seconds.
	Patience time.Duration
}

// Tracker is what a coordinator keeps of all blobs that it coordinates. It is not safe for concurrent use.
type Tracker struct{}

// NewTracker gives one that knows nothing.
func NewTracker(cfg TrackerConfig) *Tracker { return nil }

// Announce takes what a member says of a blob, with the members that discovery knows to hold it, and gives the answer.
func (t *Tracker) Announce(now time.Time, blob string, a Announce, holders []Neighbour) Assignment {
	return Assignment{}
}

// Gone takes a member out of all blobs, because it is known to be dead.
func (t *Tracker) Gone(now time.Time, member ID) {}

// Tick forgets who has not announced itself for too long. It is due about every second.
func (t *Tracker) Tick(now time.Time) {}

// Changed gives a number that changes whenever somebody who was told to wait may be told something else now.
func (t *Tracker) Changed(blob string) uint64 { return 0 }

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

// Tracker is what one member knows of all blobs that it is the tracker of. It is only memory: one that starts afresh
// knows within a second, from the next announcements, what the last one knew, and leaves to members what they are
// reading. It is not safe for concurrent use.
type Tracker struct {
	cfg     TrackerConfig
	blobs   map[string]*blob   // By what Group gives.
	sized   map[string][]*blob // Those that are cut, by the blob's name.
	version uint64
}

// NewTracker gives one that knows nothing.
func NewTracker(cfg TrackerConfig) *Tracker {
	for _, field := range []struct {
		value  *int
		normal int
	}{{&cfg.Blobs, 4096}, {&cfg.Members, 16384}, {&cfg.UpstreamLeases, 8}} {
		if *field.value <= 0 {
			*field.value = field.normal
		}
	}
	if cfg.Expiry <= 0 {
		cfg.Expiry = 4 * time.Second
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 3 * time.Second
	}
	return &Tracker{cfg: cfg, blobs: make(map[string]*blob), sized: make(map[string][]*blob)}
}

// Announce takes what a member says of a blob, with the members that discovery knows to hold it, and gives the answer.
func (t *Tracker) Announce(now time.Time, name string, a Announce, holders []Neighbour) Assignment {
	group := t.Group(name, a.Size)
	t.leave(now, name, group, a)
	if a.Leaving {
		return Assignment{Size: a.Size, Again: announceEvery}
	}
	b := t.blobs[group]
	if b == nil {
		b = t.start(name, group, a.Size)
	}
	b.seen = now
	b.sweep(now)
	m := b.members[a.Member]
	away := m == nil || now.Sub(m.seen) > learnAll // With another tracker, or in another group, if any.
	if m == nil {
		if len(b.order) >= t.cfg.Members {
			given := holders[:min(len(holders), maxHolders)]
			return Assignment{Size: b.sizeFor(a.Size), Holders: ids(given), NoSource: len(given) == 0, Again: announceEvery}
		}
		m = b.add(now, a)
	}
	b.update(now, m, a)
	if away || b.learning(now) {
		b.adopt(now, m, a.Reading, holders)
	}
	return b.assign(now, m, holders)
}

// makeRoom forgets the blob that was announced longest ago if there are as many as there may be.
func (t *Tracker) makeRoom() {
	if len(t.blobs) < t.cfg.Blobs {
		return
	}
	var oldest string
	for name, b := range t.blobs {
		if seen := t.blobs[oldest]; seen == nil || b.seen.Before(seen.seen) || b.seen.Equal(seen.seen) && name < oldest {
			oldest = name
		}
	}
	t.forget(oldest)
}

// Gone takes a member out of all blobs, because it is known to be dead, and with it all leases on what it holds.
func (t *Tracker) Gone(now time.Time, member ID) {
	for _, b := range t.blobs {
		b.remove(now, b.members[member])
		for _, m := range b.order {
			b.dropWhere(m, func(l *lease) bool { return l.from == member })
		}
	}
}

// Tick forgets who has not announced itself for too long. It is due about every second.
func (t *Tracker) Tick(now time.Time) {
	for name, b := range t.blobs {
		b.sweep(now)
		if len(b.order) == 0 {
			t.forget(name)
		}
	}
}

// Changed gives a number that changes whenever somebody of a group who was told to wait may be told something else now.
func (t *Tracker) Changed(group string) uint64 {
	if b := t.blobs[group]; b != nil {
		return b.version
	}
	return 0
}

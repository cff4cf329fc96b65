package swarm

import (
	"math/rand/v2"
	"time"
)

const (
	// mostRequests is how many requests are out at once in all.
	mostRequests = 16
	// perPeer is how many are out at one neighbour: one on its way, and one so that its link is not idle in between.
	perPeer = 2
	// mostPeers is to how many neighbours we listen: those the tracker names, and some that came by themselves.
	mostPeers = degree + farLinks
	// mostFollowers is how many may listen to us.
	mostFollowers = 4 * degree
	// enoughPeers is how many of those that the tracker names suffice to leave the others.
	enoughPeers = degree - farLinks
	// stallAfter is for how long nothing comes before the tracker is asked for another way.
	stallAfter = 2 * time.Second
)

// DownloadConfig is what a Download needs.
type DownloadConfig struct {
	Self   ID
	Zone   string
	Layout Layout
	Rand   *rand.Rand
}

// Download is one member's view of one blob that it is getting: the picker, and what it tells its neighbours. Its
// methods take what has happened and give what to do about it, in order. It is not safe for concurrent use.
type Download struct {
	cfg  DownloadConfig
	n    int
	acts []Action

	have   Pieces
	asked  Pieces // Requested and not here.
	mine   Pieces // Covered by our leases.
	hashes hashes // As first told, or taken by ourselves.
	// avail counts the neighbours that offer each piece, and nearHas has what neighbours of our zone offer.
	avail   []uint16
	nearNum []uint16
	nearHas Pieces

	peers  map[ID]*peer
	order  []*peer // A map's order must not decide anything.
	banned map[ID]time.Time
	out    []request
	ready  []*peer // Scratch.

	leases []Lease
	seeds  []*seed
	later  []held

	reading    int64
	took       time.Duration // For a request, smoothed.
	lastGot    time.Time
	complained time.Time // When it was last reported that nothing comes.
	ticked     time.Time
	ended      bool
}

// peer is another member: one that we listen to, or that listens to us, or both.
type peer struct {
	Neighbour
	near    bool
	linked  bool // Connect was said, and it is not lost.
	hears   bool // We hear from it.
	listed  bool // The tracker names it.
	parting bool // Nothing more is asked of it, and then it is left.
	follows bool // It hears us.
	has     Pieces
	offers  Pieces       // Those whose hash it told us. Nothing else is asked of it.
	claims  map[int]Hash // Hashes that differ from what others told.
	out     int
	took    time.Duration
	pause   time.Time
	fails   int
	shown   int
}

type request struct {
	piece    int
	from     *peer
	since    time.Time
	deadline time.Time
}

// NewDownload gives one that has nothing and knows nobody.
func NewDownload(cfg DownloadConfig) *Download {
	n := cfg.Layout.Pieces()
	d := &Download{cfg: cfg, n: n, hashes: newHashes(n), avail: make([]uint16, n), nearNum: make([]uint16, n),
		peers: make(map[ID]*peer), banned: make(map[ID]time.Time)}
	d.seeds = []*seed{{zone: cfg.Zone}}
	return d
}

// Have gives the pieces that are here. The caller must not change them, and clones them to keep them.
func (d *Download) Have() Pieces { return d.have }

// Partners counts the members that we exchange pieces with and that lack some as well.
func (d *Download) Partners() (n int) {
	for _, p := range d.order {
		if p.linked && p.has.count < d.n {
			n++
		}
	}
	return n
}

// Complete tells whether all are.
func (d *Download) Complete() bool { return d.have.count == d.n }

// Reading says for which byte the slowest reader waits.
func (d *Download) Reading(off int64) { d.reading = off }

// Stalled tells whether nothing has come for a while, as the announcement says it.
func (d *Download) Stalled(now time.Time) bool {
	return !d.Complete() && !d.lastGot.IsZero() && now.Sub(d.lastGot) > stallAfter
}

// Wait says that nothing is to be expected for now, so that it is no stall when nothing comes.
func (d *Download) Wait(now time.Time) { d.lastGot = now }

// Next is when Tick is due.
func (d *Download) Next() time.Time {
	if d.lastGot.IsZero() || d.Complete() && len(d.later) == 0 && len(d.seeds[0].out) == 0 {
		return time.Time{}
	}
	return d.ticked.Add(100 * time.Millisecond)
}

func (d *Download) do(a Action) { d.acts = append(d.acts, a) }

func (d *Download) flush() []Action {
	acts := d.acts
	d.acts = nil
	return acts
}

// Tick lets time pass. It is due every 100 ms at least.
func (d *Download) Tick(now time.Time) []Action {
	d.start(now)
	d.ticked = now
	d.overdue(now)
	d.flushLater(now)
	d.part()
	d.pick(now)
	if d.Stalled(now) {
		if now.Sub(d.complained) > stallAfter {
			d.complained = now
			d.do(Report{})
		}
	}
	return d.flush()
}

func (d *Download) start(now time.Time) {
	if d.lastGot.IsZero() {
		d.lastGot, d.ticked = now, now
	}
}

// Assigned takes an answer of the tracker.
func (d *Download) Assigned(now time.Time, a Assignment) []Action {
	d.start(now)
	d.lease(a.Leases)
	for _, p := range d.order {
		p.listed = false
	}
	listen := 0
	for _, n := range a.Neighbours {
		if p := d.peers[n.Member]; p != nil {
			p.listed = true
		}
	}
	for _, n := range a.Neighbours {
		d.connect(now, n)
	}
	listed := 0
	for _, p := range d.order {
		if p.linked {
			listen++
			if p.listed {
				listed++
			}
		}
	}
	for _, p := range d.order {
		// The tracker has given it others, and us. If we all kept whom we know, some would have too many. It names none
		// that have the whole blob either, but those are worth keeping.
		p.parting = p.linked && !p.listed && listed >= enoughPeers && p.has.count < d.n
	}
	d.part()
	// Complete holders feed the swarm by leases. Who asks them for pieces takes away from that, and so nobody does but
	// who has nobody else.
	if d.Stalled(now) || listen == 0 && len(d.leases) == 0 {
		for _, id := range a.Holders {
			if p := d.peers[id]; p == nil || !p.linked {
				d.connect(now, Neighbour{Member: id, Zone: d.cfg.Zone})
				break
			}
		}
	}
	d.pick(now)
	return d.flush()
}

// Connected says that we hear from a neighbour now.
func (d *Download) Connected(now time.Time, member ID) []Action {
	if p := d.peers[member]; p != nil && p.linked {
		p.hears = true
		d.pick(now)
	} else {
		d.do(Disconnect{Member: member}) // It took so long that we have others.
	}
	return d.flush()
}

// Lost says that a neighbour's stream has ended, or that it can't be reached.
func (d *Download) Lost(now time.Time, member ID) []Action {
	if p := d.peers[member]; p != nil && p.linked {
		if p.hears {
			d.ban(now, member, time.Second)
		} else {
			d.ban(now, member, 5*time.Second)
		}
		d.forget(p)
		d.pick(now)
	}
	return d.flush()
}

// Heard says that a neighbour has pieces.
func (d *Download) Heard(now time.Time, member ID, haves []Have) []Action {
	p := d.peers[member]
	if p == nil || !p.linked {
		return nil
	}
	p.hears = true
	for _, have := range haves {
		if d.hear(p, have) {
			d.seen(p, have.Piece)
			d.consider(now, p, have.Piece)
		}
	}
	d.pump(now)
	return d.flush()
}

// hear notes that a neighbour has a piece, and says whether that is news. Its first word of a piece counts.
func (d *Download) hear(p *peer, have Have) bool {
	piece := have.Piece
	if piece < 0 || piece >= d.n || !p.offers.Add(piece) {
		return false
	}
	if first, told := d.hashes.of(piece); !told {
		d.hashes.set(piece, have.Hash)
	} else if first != have.Hash {
		if p.claims == nil {
			p.claims = make(map[int]Hash)
		}
		p.claims[piece] = have.Hash
	}
	p.has.Add(piece)
	d.avail[piece]++
	if p.near {
		d.nearNum[piece]++
		d.nearHas.Add(piece)
	}
	return true
}

// hash gives what a neighbour itself told that a piece's hash is.
func (d *Download) hash(p *peer, piece int) (Hash, bool) {
	if !p.offers.Has(piece) {
		return Hash{}, false
	}
	if claim, differs := p.claims[piece]; differs {
		return claim, true
	}
	return d.hashes.of(piece)
}

// HeardAll says that a neighbour has the whole blob. It is asked for pieces of which it told the hash; the others come
// by leases.
func (d *Download) HeardAll(now time.Time, member ID) []Action {
	p := d.peers[member]
	if p == nil || !p.linked {
		return nil
	}
	p.hears = true
	for piece := range d.n {
		if p.has.Add(piece) {
			d.seen(p, piece)
		}
	}
	d.pump(now)
	d.pick(now)
	return d.flush()
}

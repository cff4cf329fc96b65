package swarm

import (
	"math/bits"
	"slices"
	"time"
)

const (
	// orderly is one of how many requests is for the piece that the reader waits for next: enough that bytes flow, few
	// enough that the members do not all ask for the same.
	orderly = 8
	// endgame is the number of missing pieces from which on each is asked for twice.
	endgame = 4
	// patience is how many times as long as usual a request may take.
	patience    = 4
	shortestDue = 1500 * time.Millisecond
	longestDue  = 30 * time.Second
	// slowestLink is what a request may take before anything is known: as on a link that brings so many bytes a second.
	slowestLink = 1 << 20
)

// pick makes requests, as many as may be out.
func (d *Download) pick(now time.Time) {
	for len(d.out) < mostRequests && !d.Complete() {
		piece := d.rarest(now)
		if piece < 0 {
			d.twice(now)
			return
		}
		p := d.best(now, piece, nil)
		if p == nil {
			return
		}
		d.request(now, p, piece)
	}
}

// ready tells whether a neighbour may be asked for something now.
func (p *peer) ready(now time.Time) bool {
	most := perPeer
	if p.fails > 0 {
		most = 1
	}
	return p.hears && !p.parting && p.out < most && !p.pause.After(now)
}

// rarest chooses a piece to ask for among those that somebody has who may be asked: the one that fewest neighbours
// have, at random among equals, or now and then the first that the reader needs. It is -1 if there is none.
func (d *Download) rarest(now time.Time) int {
	inOrder := d.cfg.Rand.IntN(orderly) == 0
	first := d.cfg.Layout.At(d.reading)
	best, least, equals := -1, uint16(0), 0
	d.ready = d.ready[:0]
	for _, p := range d.order {
		if p.ready(now) {
			d.ready = append(d.ready, p)
		}
	}
	if len(d.ready) == 0 {
		return -1
	}
	for i := range (d.n + 63) / 64 {
		if ^d.have.word(i)&^d.asked.word(i)&^d.mine.word(i) == 0 {
			continue
		}
		var near, far uint64
		for _, p := range d.ready {
			if p.near {
				near |= p.offers.word(i)
			} else {
				far |= p.offers.word(i)
			}
		}
		// Across zones only what no neighbour of our own has.
		want := (near | far&^d.nearHas.word(i)) &^ d.have.word(i) &^ d.asked.word(i) &^ d.mine.word(i)
		for ; want != 0; want &= want - 1 {
			piece := i*64 + bits.TrailingZeros64(want)
			if inOrder && piece >= first {
				return piece
			}
			switch n := d.avail[piece]; {
			case best < 0 || n < least:
				best, least, equals = piece, n, 1
			case n == least:
				if equals++; d.cfg.Rand.IntN(equals) == 0 {
					best = piece
				}
			}
		}
	}
	return best
}

// best chooses whom to ask for a piece: of our zone, with fewest requests out, fastest so far, at random.
func (d *Download) best(now time.Time, piece int, but *peer) (best *peer) {
	equals := 0
	better := func(a, b *peer) int {
		switch {
		case a.near != b.near:
			if a.near {
				return 1
			}
			return -1
		case a.out != b.out:
			return b.out - a.out
		case a.took > 2*b.took && b.took > 0:
			return -1
		case b.took > 2*a.took && a.took > 0:
			return 1
		}
		return 0
	}
	for _, p := range d.order {
		if p == but || !p.offers.Has(piece) || !p.ready(now) || !p.near && d.nearHas.Has(piece) && but == nil {
			continue
		}
		c := 1
		if best != nil {
			c = better(p, best)
		}
		if c > 0 {
			best, equals = p, 1
		} else if c == 0 {
			if equals++; d.cfg.Rand.IntN(equals) == 0 {
				best = p
			}
		}
	}
	return best
}

// consider asks for a piece that a neighbour has just told of. What else could be asked for has been.
func (d *Download) consider(now time.Time, p *peer, piece int) {
	if len(d.out) >= mostRequests || !p.ready(now) || d.have.Has(piece) || d.asked.Has(piece) || d.mine.Has(piece) {
		return
	}
	if !p.near && d.nearHas.Has(piece) {
		return
	}
	d.request(now, p, piece)
}

// twice asks a second neighbour for the last pieces, and for those of our own leases that others have.
func (d *Download) twice(now time.Time) {
	if d.n-d.have.count > endgame {
		return
	}
	for piece := range d.n {
		if len(d.out) >= mostRequests {
			return
		}
		if d.have.Has(piece) || d.avail[piece] == 0 {
			continue
		}
		var first *peer
		asked := 0
		for _, r := range d.out {
			if r.piece == piece {
				first, asked = r.from, asked+1
			}
		}
		if asked > 1 {
			continue
		}
		if p := d.best(now, piece, first); p != nil {
			d.request(now, p, piece)
		}
	}
}

func (d *Download) request(now time.Time, p *peer, piece int) {
	hash, told := d.hash(p, piece)
	if !told {
		return // What can't be checked is not asked for.
	}
	d.asked.Add(piece)
	p.out++
	r := request{piece: piece, from: p, since: now, deadline: now.Add(d.due())}
	d.out = append(d.out, r)
	d.do(Request{Member: p.Member, Piece: piece, Hash: hash, Deadline: r.deadline})
}

// due is how long a request may take.
func (d *Download) due() time.Duration {
	if d.took == 0 {
		return 3*time.Second + time.Duration(d.cfg.Layout.PieceSize*int64(time.Second)/slowestLink)
	}
	return min(max(patience*d.took, shortestDue), longestDue)
}

// find gives the index of a request; negative if it was given up.
func (d *Download) find(member ID, piece int) int {
	return slices.IndexFunc(d.out, func(r request) bool { return r.piece == piece && r.from.Member == member })
}

// unask takes a request out.
func (d *Download) unask(i int) {
	r := d.out[i]
	r.from.out--
	d.out = slices.Delete(d.out, i, i+1)
	if !slices.ContainsFunc(d.out, func(o request) bool { return o.piece == r.piece }) {
		d.asked.Remove(r.piece)
	}
}

// Arrived says that a requested piece is here, and that its bytes are what the request's hash says.
func (d *Download) Arrived(now time.Time, member ID, piece int) []Action {
	if i := d.find(member, piece); i >= 0 {
		r := d.out[i]
		took := now.Sub(r.since)
		d.took, r.from.took = smooth(d.took, took), smooth(r.from.took, took)
		r.from.fails = 0
		if hash, told := d.hash(r.from, piece); told {
			d.hashes.set(piece, hash)
		}
		d.unask(i)
	}
	d.got(now, piece, d.peers[member])
	d.pick(now)
	return d.flush()
}

func smooth(old, value time.Duration) time.Duration {
	if old == 0 {
		return max(1, value)
	}
	return old + (value-old)/8
}

// Fetched says that a piece is complete from a lease.
func (d *Download) Fetched(now time.Time, have Have) []Action {
	d.start(now)
	if have.Piece >= 0 && have.Piece < d.n && !d.have.Has(have.Piece) {
		d.hashes.set(have.Piece, have.Hash)
		d.got(now, have.Piece, nil)
		d.pick(now)
	}
	return d.flush()
}

// got notes a piece that is new here, tells the others, and gives up other requests for it.
func (d *Download) got(now time.Time, piece int, from *peer) {
	if piece < 0 || piece >= d.n || !d.have.Add(piece) {
		return
	}
	d.lastGot = now
	for i := len(d.out) - 1; i >= 0; i-- {
		if d.out[i].piece == piece {
			d.do(Cancel{Member: d.out[i].from.Member, Piece: piece})
			d.unask(i)
		}
	}
	if from == nil {
		d.show(now, piece)
	} else {
		d.spread(now, piece, from)
	}
	if d.mine.Has(piece) && d.leaseDone(piece) || d.Complete() && !d.ended {
		d.ended = d.Complete()
		d.do(Report{})
	}
	if d.Complete() {
		// The tracker names us no more, and who leaves us should know what we have.
		for piece := range d.seeds[0].hidden.Clone().All {
			d.reveal(d.seeds[0], piece)
		}
	}
	d.hangUp()
}

// Refused says that a neighbour is busy, or does not have the piece any more.
func (d *Download) Refused(now time.Time, member ID, piece int, retry time.Duration) []Action {
	if i := d.find(member, piece); i >= 0 {
		p := d.out[i].from
		d.unask(i)
		p.pause = now.Add(min(max(retry, 5*time.Millisecond), longestDue))
		d.pick(now)
	}
	return d.flush()
}

// TimedOut says that a request's deadline has passed.
func (d *Download) TimedOut(now time.Time, member ID, piece int) []Action {
	i := d.find(member, piece)
	if i < 0 {
		return nil
	}
	p := d.out[i].from
	d.unask(i)
	d.do(Cancel{Member: member, Piece: piece})
	if d.took > 0 {
		d.took += d.took / 4 // If all are slow the deadline is too short.
	}
	p.fails++
	p.pause = now.Add(min(time.Second/4<<p.fails, longestDue))
	if p.fails > 2 {
		d.ban(now, member, longestDue)
		d.do(Disconnect{Member: member})
		d.forget(p)
	}
	d.pick(now)
	return d.flush()
}

// Wrong says that what came for a request is not what its hash says.
func (d *Download) Wrong(now time.Time, member ID, piece int) []Action {
	p := d.peers[member]
	if p == nil {
		return nil
	}
	d.do(Blame{Member: member, Piece: piece})
	return d.Lied(now, member)
}

// Lied says that a neighbour told what it can't mean. It is left for as long as one that sent wrong bytes.
func (d *Download) Lied(now time.Time, member ID) []Action {
	d.ban(now, member, 24*time.Hour)
	if p := d.peers[member]; p != nil && p.linked {
		d.do(Disconnect{Member: member})
		d.forget(p)
	}
	d.pick(now)
	return d.flush()
}

// hangUp stops listening once nothing is wanted any more, nor to be heard of what we showed.
func (d *Download) hangUp() {
	if !d.Complete() || d.seeds[0].hidden.count > 0 {
		return
	}
	for _, p := range slices.Clone(d.order) {
		if p.linked {
			d.do(Disconnect{Member: p.Member})
			d.forget(p)
		}
	}
}

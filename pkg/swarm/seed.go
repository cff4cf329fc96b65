package swarm

import (
	"math"
	"slices"
	"time"
)

const (
	// showing is how many pieces a follower has been shown that nobody has told of yet.
	showing = 4
	// showAgain is after how long at least a piece that was shown to one is told to all: it may be gone, or slow.
	showAgain = 500 * time.Millisecond
	// farDelay is for how long other zones are not told of what they are to get from the few that were shown it.
	farDelay = 3 * time.Second
)

// seed is what we fetched from outside of the swarm and a zone has not got from us yet. Each piece is shown to one
// follower of the zone, and told to the others of our own zone only when one of them has it, so that our link carries
// everything once before it carries anything twice (super-seeding). Other zones are left to themselves then.
type seed struct {
	zone   string
	hidden Pieces // Not told to all of the zone.
	queue  []int
	out    []shown
}

type shown struct {
	piece int
	to    *peer
	since time.Time
}

// held is a piece of which other zones are told when it is due, in case that nobody else brings it to them.
type held struct {
	piece int
	due   time.Time
}

// show takes in a piece that we fetched from outside.
func (d *Download) show(now time.Time, piece int) {
	if d.nearHas.Has(piece) {
		d.spread(now, piece, nil) // Another fetched it too, and it is out.
		return
	}
	for _, s := range d.seeds {
		s.hidden.Add(piece)
		s.queue = append(s.queue, piece)
	}
	d.hold(now, piece)
	d.pump(now)
}

func (d *Download) hold(now time.Time, piece int) {
	if slices.ContainsFunc(d.order, func(p *peer) bool { return p.follows && !p.near }) {
		d.later = append(d.later, held{piece: piece, due: now.Add(farDelay)})
	}
}

// spread tells our zone of a piece that came from a neighbour, and the neighbour, who may wait to hear that it is out.
func (d *Download) spread(now time.Time, piece int, from *peer) {
	haves := d.haves(piece)
	for _, p := range d.order {
		if p.follows && (p == from || p.near && !p.has.Has(piece)) {
			d.do(Tell{Member: p.Member, Haves: haves})
		}
	}
	d.hold(now, piece)
}

func (d *Download) haves(pieces ...int) []Have {
	haves := make([]Have, 0, len(pieces))
	for _, piece := range pieces {
		if hash, ok := d.hashes.of(piece); ok {
			haves = append(haves, Have{Piece: piece, Hash: hash})
		}
	}
	return haves
}

func (d *Download) tell(p *peer, pieces ...int) {
	d.do(Tell{Member: p.Member, Haves: d.haves(pieces...)})
}

// welcome tells a new follower what it may know.
func (d *Download) welcome(now time.Time, p *peer) {
	if !p.near && !slices.ContainsFunc(d.seeds, func(s *seed) bool { return s.zone == p.Zone }) && len(d.seeds) < mostFollowers {
		d.seeds = append(d.seeds, &seed{zone: p.Zone})
	}
	secret := &d.seeds[0].hidden
	if !p.near {
		secret = &Pieces{}
		for _, h := range d.later {
			secret.Add(h.piece)
		}
	}
	var pieces []int
	for piece := range d.have.All {
		if !secret.Has(piece) && !p.has.Has(piece) {
			pieces = append(pieces, piece)
		}
	}
	if len(pieces) > 0 {
		d.tell(p, pieces...)
	}
}

// pump shows what is hidden, as much as followers may be shown at once.
func (d *Download) pump(now time.Time) {
	d.hangUp()
	for _, s := range d.seeds {
		for len(s.queue) > 0 {
			piece := s.queue[0]
			if s.hidden.Has(piece) {
				to := d.least(s.zone, piece)
				if to == nil {
					break
				}
				to.shown++
				s.out = append(s.out, shown{piece: piece, to: to, since: now})
				d.tell(to, piece)
			}
			s.queue = s.queue[1:]
		}
	}
}

// least gives the follower of a zone that has been shown least.
func (d *Download) least(zone string, piece int) (to *peer) {
	least, equals := math.MaxInt, 0
	for _, p := range d.order {
		if !p.follows || p.Zone != zone || p.shown >= showing || p.has.Has(piece) {
			continue
		}
		rank := p.shown
		if !p.hears {
			rank += showing // It could not tell us that it has the piece.
		}
		if rank < least {
			to, least, equals = p, rank, 1
		} else if rank == least {
			if equals++; d.cfg.Rand.IntN(equals) == 0 {
				to = p
			}
		}
	}
	return to
}

// seen notes that a neighbour has a piece: what was hidden of it is out.
func (d *Download) seen(p *peer, piece int) {
	for _, s := range d.seeds {
		if s.zone == p.Zone && s.hidden.Has(piece) {
			d.reveal(s, piece)
			return
		}
	}
}

// reveal ends the hiding of a piece, and tells our own zone of it.
func (d *Download) reveal(s *seed, piece int) {
	s.hidden.Remove(piece)
	var to *peer
	if i := slices.IndexFunc(s.out, func(o shown) bool { return o.piece == piece }); i >= 0 {
		to = s.out[i].to
		to.shown--
		s.out = slices.Delete(s.out, i, i+1)
	}
	if s != d.seeds[0] {
		return
	}
	haves := d.haves(piece)
	for _, p := range d.order {
		if p.follows && p.near && p != to && !p.has.Has(piece) {
			d.do(Tell{Member: p.Member, Haves: haves})
		}
	}
}

// unshow queues again what was shown to somebody who has gone.
func (d *Download) unshow(p *peer) {
	for _, s := range d.seeds {
		s.out = slices.DeleteFunc(s.out, func(o shown) bool {
			if o.to == p {
				s.queue = append(s.queue, o.piece)
			}
			return o.to == p
		})
	}
	p.shown = 0
}

// overdue gives up waiting for those who were shown a piece and got it not.
func (d *Download) overdue(now time.Time) {
	limit := max(showAgain, patience*d.took)
	for _, s := range d.seeds {
		for len(s.out) > 0 && now.Sub(s.out[0].since) > limit {
			d.reveal(s, s.out[0].piece)
		}
	}
	d.pump(now)
}

// flushLater tells other zones of what has been here for long.
func (d *Download) flushLater(now time.Time) {
	n := 0
	for n < len(d.later) && !d.later[n].due.After(now) {
		n++
	}
	if n == 0 {
		return
	}
	for _, p := range d.order {
		if !p.follows || p.near {
			continue
		}
		var pieces []int
		for _, h := range d.later[:n] {
			if !p.has.Has(h.piece) {
				pieces = append(pieces, h.piece)
			}
		}
		if len(pieces) > 0 {
			d.tell(p, pieces...)
		}
	}
	d.later = d.later[n:]
}

// First tells whether a piece is one that we were the first to have, and that has not got around in our zone yet. Its
// upload goes before others, by Uploads.AskFirst.
func (d *Download) First(piece int) bool {
	return slices.ContainsFunc(d.seeds, func(s *seed) bool { return s.hidden.Has(piece) })
}

package swarm

import (
	"slices"
	"time"
)

// connect listens to a neighbour, in the place of one that the tracker does not name if there are too many.
func (d *Download) connect(now time.Time, n Neighbour) {
	p := d.peers[n.Member]
	if n.Member == d.cfg.Self || p != nil && p.linked || d.banned[n.Member].After(now) || d.Complete() {
		return
	}
	linked := 0
	var drop *peer
	for _, q := range d.order {
		if q.linked {
			linked++
			if !q.listed && (drop == nil || q.out < drop.out || q.out == drop.out && q.took > drop.took) {
				drop = q
			}
		}
	}
	if linked >= mostPeers {
		if drop == nil {
			return
		}
		d.do(Disconnect{Member: drop.Member})
		d.forget(drop)
	}
	p = d.meet(n)
	p.linked, p.listed = true, true
	d.do(Connect{Neighbour: n})
}

// part leaves those that are to be left and owe us nothing.
func (d *Download) part() {
	for _, p := range slices.Clone(d.order) {
		if p.parting && p.linked && p.out == 0 {
			d.do(Disconnect{Member: p.Member})
			d.forget(p)
		}
	}
}

func (d *Download) meet(n Neighbour) *peer {
	p := d.peers[n.Member]
	if p == nil {
		p = &peer{Neighbour: n, near: n.Zone == d.cfg.Zone}
		d.peers[n.Member] = p
		d.order = append(d.order, p)
	}
	return p
}

// forget takes out what a neighbour has, and what was asked of it.
func (d *Download) forget(p *peer) {
	for piece := range p.offers.All {
		d.lacks(p, piece)
	}
	p.has, p.offers, p.claims = Pieces{}, Pieces{}, nil
	p.linked, p.hears, p.parting = false, false, false
	for i := len(d.out) - 1; i >= 0; i-- {
		if d.out[i].from == p {
			d.unask(i)
		}
	}
	d.drop(p)
}

func (d *Download) lacks(p *peer, piece int) {
	d.avail[piece]--
	if p.near {
		if d.nearNum[piece]--; d.nearNum[piece] == 0 {
			d.nearHas.Remove(piece)
		}
	}
}

// drop takes out a peer that neither hears us nor is heard.
func (d *Download) drop(p *peer) {
	if p.linked || p.follows {
		return
	}
	delete(d.peers, p.Member)
	d.order = slices.DeleteFunc(d.order, func(q *peer) bool { return q == p })
}

// ban keeps a neighbour from being connected to for a while.
func (d *Download) ban(now time.Time, id ID, long time.Duration) {
	if len(d.banned) >= mostFollowers {
		for old, until := range d.banned {
			if !until.After(now) {
				delete(d.banned, old)
			}
		}
	}
	if len(d.banned) < 4*mostFollowers {
		d.banned[id] = now.Add(long)
	}
}

// Followed says that a member listens to us now.
func (d *Download) Followed(now time.Time, follower Neighbour) []Action {
	d.start(now)
	followers := 0
	for _, p := range d.order {
		if p.follows {
			followers++
		}
	}
	if p := d.peers[follower.Member]; followers >= mostFollowers && (p == nil || !p.follows) || follower.Member == d.cfg.Self {
		return nil
	}
	p := d.meet(follower)
	if !p.follows && d.mine.count > d.n/2 {
		d.do(Report{}) // We are not alone any more, and have our share to fetch, not all of it.
	}
	p.follows = true
	d.welcome(now, p)
	if linked := len(d.order); linked < mostPeers {
		d.connect(now, follower)
	}
	d.pump(now)
	return d.flush()
}

// Unknown says that it is not known how a neighbour is reached: who follows us may come before the tracker names
// it. The next answer that does tells.
func (d *Download) Unknown(member ID) {
	if p := d.peers[member]; p != nil && p.linked && !p.hears {
		d.forget(p)
	}
}

// Unfollowed says that it does no more.
func (d *Download) Unfollowed(now time.Time, member ID) []Action {
	if p := d.peers[member]; p != nil && p.follows {
		p.follows = false
		d.unshow(p)
		d.drop(p)
		d.pump(now)
	}
	return d.flush()
}

package session

import (
	"context"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// do carries out what the picker wants done.
func (p *session) do(now time.Time, actions []swarm.Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case swarm.Connect:
			p.connect(a.Neighbour)
		case swarm.Disconnect:
			p.disconnect(a.Member)
		case swarm.Request:
			p.ask(now, a)
		case swarm.Cancel:
			p.cancelRequest(request{a.Member, a.Piece})
		case swarm.Fetch, swarm.Release: // The leases are read as the assignment has them, also without a picker.
		case swarm.Tell:
			if f := p.followers[a.Member]; f != nil {
				f.push(a.Haves)
			}
		case swarm.Report:
			p.report(now)
		case swarm.Blame:
			p.blame(a.Member, a.Piece)
		}
	}
}

// later does what the picker makes of something that has just been found out, but not before the actions at hand are
// done.
func (p *session) later(event func(now time.Time) []swarm.Action) {
	p.work.Go(func() {
		p.post(func(now time.Time) { p.do(now, event(now)) })
	})
}

// connect starts to listen to a neighbour.
func (p *session) connect(to swarm.Neighbour) {
	if _, ok := p.neighbours[to.Member]; ok {
		return
	}
	member, ok := p.member(to.Member)
	if !ok || len(member.PeerAPI) == 0 {
		p.download.Unknown(to.Member)
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	n := &neighbour{p: p, id: to.Member, member: member, cancel: cancel}
	p.neighbours[to.Member] = n
	p.work.Go(func() { n.listen(ctx) })
}

// disconnect ends all that is going on with a neighbour.
func (p *session) disconnect(id swarm.ID) {
	n := p.neighbours[id]
	if n == nil {
		return
	}
	delete(p.neighbours, id)
	n.cancel()
	for r := range p.requests {
		if r.member == id {
			p.cancelRequest(r)
		}
	}
}

// lost takes note that a neighbour's stream ended before all was told.
func (p *session) lost(now time.Time, n *neighbour, err error) {
	if p.neighbours[n.id] != n {
		return
	}
	p.log.V(1).Info("neighbour lost", "peer", string(n.id), "address", n.member.PeerAPI, "reason", err.Error())
	p.disconnect(n.id)
	p.do(now, p.download.Lost(now, n.id))
	if last := p.announce.last; last != nil && last.By == n.id {
		p.report(now) // Who takes over knows the sooner what is read by whom.
	}
}

// lied ends the conversation with a neighbour that said what it can't mean.
func (p *session) lied(now time.Time, n *neighbour, err error) {
	if p.neighbours[n.id] != n {
		return
	}
	p.accuse(n.id, n.member, err)
	p.disconnect(n.id)
	p.do(now, p.download.Lied(now, n.id))
}

// accuse notes that a member is not to be believed of this blob.
func (p *session) accuse(id swarm.ID, member discovery.Member, err error) {
	p.wrong[id] = true
	p.x.cfg.Peers.Violations().Note(string(id), strings.Join(member.PeerAPI, " "), p.ref.Digest.String(), err)
	if len(member.PeerAPI) > 0 && p.x.cfg.Blame != nil {
		p.x.cfg.Blame(member, p.ref, err)
	}
}

// heardOf takes what a neighbour says that it has.
func (p *session) heardOf(now time.Time, n *neighbour, f frame) {
	if p.neighbours[n.id] != n {
		return
	}
	if len(f.haves) > 0 {
		p.do(now, p.download.Heard(now, n.id, f.haves))
	}
	if f.all {
		p.do(now, p.download.HeardAll(now, n.id))
	}
}

// blame notes that a member sent wrong bytes.
func (p *session) blame(id swarm.ID, piece int) {
	member, _ := p.member(id)
	p.log.Info("member sent a wrong piece", "peer", string(id), "address", member.PeerAPI, "piece", piece)
	p.accuse(id, member, errWrongPiece)
}

// followed adds a member that listens to us. It tells whether there is room.
func (p *session) followed(now time.Time, f *follower) bool {
	if old := p.followers[f.id]; old != nil {
		old.end(false)
		p.unfollowed(now, old)
	}
	if len(p.followers) >= p.x.cfg.MaxFollowers || !p.agrees(f) {
		return false
	}
	p.followers[f.id] = f
	p.following.Store(int64(len(p.followers)))
	if p.download == nil {
		p.engage(now)
	} else {
		p.do(now, p.download.Followed(now, swarm.Neighbour{Member: f.id, Zone: f.zone}))
	}
	return true
}

// agrees tells whether a follower may believe in the same size of the blob: in another, pieces are others.
func (p *session) agrees(f *follower) bool { return f.size < 0 || p.size < 0 || f.size == p.size }

func (p *session) unfollowed(now time.Time, f *follower) {
	if p.followers[f.id] != f {
		return
	}
	delete(p.followers, f.id)
	p.following.Store(int64(len(p.followers)))
	if p.download != nil {
		p.do(now, p.download.Unfollowed(now, f.id))
	}
}

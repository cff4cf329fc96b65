package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// node is a member: the same core as in the daemon, driven by the simulated network.
type node struct {
	id       swarm.ID
	zone     string
	up, down *link
	slow     bool
	gone     bool
	ended    int64

	rand    *rand.Rand
	load    *swarm.Download
	uploads *swarm.Uploads
	waiting []*transfer // Queued at us.
	serving []*transfer
	out     []*transfer // Asked for by us.
	whole   bool

	hears, followed map[swarm.ID]bool

	streams []*stream // One for each lease that is being read.
	fetched int64

	asking  bool // An announcement is under way.
	report  bool // Another is to follow it.
	next    int64
	waits   bool
	version uint64
	coord   int
}

// transfer is a piece that one asked of another.
type transfer struct {
	from, to *node
	piece    int
	deadline time.Time
	flow     *flow
	over     bool
}

const blobName = "sha256:simulated"

func newNode(w *world, i int) *node {
	return &node{id: swarm.ID(fmt.Sprintf("n%d", i)), zone: fmt.Sprintf("z%d", i%max(1, w.zones)),
		up: &link{rate: w.rate}, down: &link{rate: w.rate}, rand: rand.New(rand.NewPCG(w.rand.Uint64(), uint64(i))),
		uploads: swarm.NewUploads(swarm.UploadsConfig{Slots: w.slots}),
		hears:   make(map[swarm.ID]bool), followed: make(map[swarm.ID]bool)}
}

func (n *node) begin(w *world) {
	if n.gone {
		return
	}
	n.load = swarm.NewDownload(swarm.DownloadConfig{Self: n.id, Zone: n.zone, Layout: w.layout, Rand: n.rand})
	n.announce(w)
	w.every(100*time.Millisecond, func(w *world) bool {
		if n.gone {
			return false
		}
		n.tick(w)
		return true
	})
}

func (n *node) tick(w *world) {
	now := w.time()
	for _, t := range slices.Clone(n.out) {
		if !t.deadline.After(now) && !t.over {
			n.giveUp(w, t)
			n.do(w, n.load.TimedOut(now, t.from.id, t.piece))
		}
	}
	n.do(w, n.load.Tick(now))
	if n.ended == 0 && (w.now >= n.next || n.waits && w.tracker().Changed(w.tracker().Group(blobName, w.layout.Size)) != n.version) {
		n.announce(w)
	}
}

// announce tells the tracker, and hears its answer.
func (n *node) announce(w *world) {
	if n.asking {
		n.report = true
		return
	}
	n.asking, n.report = true, false
	w.announces++
	if n.coord < w.dead { // It does not answer: the next-closest is asked.
		n.coord++
		w.after(500*time.Millisecond, func(w *world) { n.asking = false; n.announce(w) })
		return
	}
	w.after(w.latency, func(w *world) {
		if n.gone {
			return
		}
		a := swarm.Announce{Member: n.id, Zone: n.zone, Size: w.size, Have: n.load.Have().Clone(), Complete: n.load.Complete(),
			Partners: n.load.Partners(), Fetched: n.fetched, Stalled: n.load.Stalled(w.time())}
		for _, s := range n.streams {
			a.Reading = append(a.Reading, s.lease)
		}
		answer := w.tracker().Announce(w.time(), blobName, a, w.holding())
		n.version = w.tracker().Changed(w.tracker().Group(blobName, w.layout.Size))
		w.after(w.latency, func(w *world) { n.answered(w, answer) })
	})
}

func (n *node) answered(w *world, a swarm.Assignment) {
	if n.gone {
		return
	}
	n.asking, n.waits = false, a.Wait
	n.next = w.now + int64(a.Again) + n.rand.Int64N(int64(a.Again)/5+1)
	n.do(w, n.load.Assigned(w.time(), a))
	if n.report && n.ended == 0 {
		n.announce(w)
	}
}

// holding is what discovery knows.
func (w *world) holding() (out []swarm.Neighbour) {
	for _, n := range w.complete[max(0, len(w.complete)-16):] {
		out = append(out, swarm.Neighbour{Member: n.id, Zone: n.zone})
	}
	return out
}

// do carries actions out.
func (n *node) do(w *world, actions []swarm.Action) {
	var tells []swarm.Tell
	for _, action := range actions {
		switch a := action.(type) {
		case swarm.Connect:
			n.connect(w, w.byID[a.Neighbour.Member])
		case swarm.Disconnect:
			n.disconnect(w, w.byID[a.Member])
		case swarm.Request:
			n.request(w, a)
		case swarm.Cancel:
			for _, t := range slices.Clone(n.out) {
				if t.from.id == a.Member && t.piece == a.Piece {
					n.giveUp(w, t)
				}
			}
		case swarm.Fetch:
			n.read(w, a.Lease)
		case swarm.Release:
			n.release(w, a.Lease)
		case swarm.Tell:
			tells = append(tells, a)
		case swarm.Report:
			n.announce(w)
		case swarm.Blame:
		}
	}
	if len(tells) > 0 {
		w.queue.push(w.now+int64(w.latency), &telling{from: n, tells: tells})
	}
	if n.load.Complete() && n.ended == 0 {
		n.ended = w.now
		n.whole = true
		w.settled(n)
		w.complete = append(w.complete, n)
	}
}

// telling is news on their way to followers.
type telling struct {
	from  *node
	tells []swarm.Tell
}

func (t *telling) happen(w *world) {
	for _, tell := range t.tells {
		to := w.byID[tell.Member]
		if w.haves++; !to.gone && to.hears[t.from.id] {
			to.do(w, to.load.Heard(w.time(), t.from.id, tell.Haves))
		}
	}
}

func (n *node) connect(w *world, to *node) {
	w.after(4*w.latency, func(w *world) {
		switch {
		case n.gone:
		case to.gone || to.load == nil && !to.whole:
			n.do(w, n.load.Lost(w.time(), to.id))
		default:
			n.hears[to.id] = true
			n.do(w, n.load.Connected(w.time(), to.id))
			if to.load == nil {
				n.do(w, n.load.HeardAll(w.time(), to.id))
				return
			}
			to.followed[n.id] = true
			to.do(w, to.load.Followed(w.time(), swarm.Neighbour{Member: n.id, Zone: n.zone}))
		}
	})
}

func (n *node) disconnect(w *world, to *node) {
	if !n.hears[to.id] {
		return
	}
	delete(n.hears, to.id)
	for _, t := range slices.Clone(n.out) {
		if t.from == to {
			n.giveUp(w, t)
		}
	}
	w.after(w.latency, func(w *world) {
		if !to.gone && to.followed[n.id] {
			delete(to.followed, n.id)
			to.do(w, to.load.Unfollowed(w.time(), n.id))
		}
	})
}

// die ends a node: with its connections, or in silence.
func (n *node) die(w *world, silent bool) {
	if n.gone || n.ended > 0 {
		return
	}
	n.gone = true
	w.settled(n)
	for _, s := range n.streams {
		s.close(w, 0)
	}
	for _, t := range slices.Concat(n.out, n.serving) {
		if t.flow != nil {
			w.stop(t.flow)
		}
	}
	if silent {
		return
	}
	w.after(w.latency, func(w *world) {
		for _, other := range w.nodes {
			if other.gone || other.load == nil {
				continue
			}
			if other.hears[n.id] {
				delete(other.hears, n.id)
				other.do(w, other.load.Lost(w.time(), n.id))
			}
			if other.followed[n.id] {
				delete(other.followed, n.id)
				other.do(w, other.load.Unfollowed(w.time(), n.id))
			}
		}
	})
}

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// scenario is one run: what the network is like and what goes wrong.
type scenario struct {
	nodes    int
	size     int64
	rate     float64 // Bytes per second of each node's uplink and downlink.
	upstream float64 // Bytes per second of upstream, for all members together.
	seed     uint64
	note     string

	holders    int           // How many more nodes have the blob at the start.
	zones      int           // Nodes are in these in turn.
	jitter     time.Duration // Nodes begin at a random time within this.
	slow       float64       // This part of the nodes
	slowness   float64       // has links of this part of the rate.
	dying      float64       // This part of the nodes dies half-way, half of them without a word.
	dyingLease bool          // Half of the members that hold leases half-way are among them.
	noCoord    bool          // The tracker dies half-way.
	latency    time.Duration // One way, between nodes.
	slots      int
}

// limit ends a run that does not end by itself, in multiples of the bound.
const limit = 60

// world is a run.
type world struct {
	scenario
	now    int64
	queue  queue
	rand   *rand.Rand
	layout swarm.Layout

	nodes    []*node
	byID     map[swarm.ID]*node
	origin   *link
	trackers []*swarm.Tracker
	dead     int // How many of the trackers are dead.
	loading  int
	complete []*node

	announces, haves int
	crossed          map[string]int64
}

// outcome is what a run showed.
type outcome struct {
	bound             time.Duration
	last, p99, median time.Duration
	copies            float64
	announces, haves  float64       // For each node.
	crossing          float64       // Copies that the zone that got most of them got from other zones.
	fast              time.Duration // When the last node that is not slow was done.
	unfinished        int
}

func newWorld(s scenario) *world {
	w := &world{scenario: s, rand: rand.New(rand.NewPCG(s.seed, 4)), layout: swarm.NewLayout(s.size),
		byID: make(map[swarm.ID]*node), origin: &link{rate: s.upstream}, crossed: make(map[string]int64)}
	for range 3 {
		w.trackers = append(w.trackers, swarm.NewTracker(swarm.TrackerConfig{Rand: rand.New(rand.NewPCG(w.rand.Uint64(), 1))}))
	}
	for i := range s.nodes + s.holders {
		n := newNode(w, i)
		w.nodes = append(w.nodes, n)
		w.byID[n.id] = n
		if i >= s.nodes {
			n.whole = true
			w.complete = append(w.complete, n)
			continue
		}
		if float64(i) < s.slow*float64(s.nodes) {
			n.slow = true
			n.up.rate *= s.slowness
			n.down.rate *= s.slowness
		}
		if w.matters(n) {
			w.loading++
		}
		w.after(time.Duration(w.rand.Int64N(int64(s.jitter)+1)), n.begin)
	}
	w.every(time.Second, func(w *world) bool {
		w.tracker().Tick(w.time())
		return true
	})
	half := w.bound() / 2
	if s.dying > 0 || s.dyingLease {
		w.after(half, (*world).kill)
	}
	if s.noCoord {
		w.after(half, func(w *world) { w.dead = 1 })
	}
	return w
}

// matters tells whether a run goes on until a node is done: not for those that are slower than is worth waiting for.
func (w *world) matters(n *node) bool { return !n.slow || w.slowness >= 0.1 }

func (w *world) settled(n *node) {
	if w.matters(n) {
		w.loading--
	}
}

func (w *world) tracker() *swarm.Tracker { return w.trackers[min(w.dead, len(w.trackers)-1)] }

func (w *world) time() time.Time { return time.Unix(0, w.now) }

// bound is how long it takes at least, however it is done.
func (w *world) bound() time.Duration {
	n, size := float64(w.scenario.nodes), float64(w.size)
	source := w.upstream
	if w.holders > 0 {
		source = float64(w.holders) * w.rate
	}
	slowest := w.rate
	up := w.rate * n
	if w.slow > 0 {
		up -= float64(int(w.slow*n)) * w.rate * (1 - w.slowness)
	}
	return time.Duration(max(size/source, size/slowest, n*size/(source+up)) * 1e9)
}

// kill has nodes die.
func (w *world) kill() {
	left := int(w.dying * float64(w.scenario.nodes))
	var doomed []*node
	if w.dyingLease {
		for i, n := range w.leasing() {
			if i%2 == 0 {
				doomed = append(doomed, n)
			}
		}
	}
	for len(doomed) < left {
		if n := w.nodes[w.rand.IntN(w.scenario.nodes)]; !slices.Contains(doomed, n) {
			doomed = append(doomed, n)
		}
	}
	for i, n := range doomed {
		n.die(w, i%2 == 0)
	}
}

func (w *world) leasing() (out []*node) {
	for _, n := range w.nodes {
		if len(n.streams) > 0 && !n.gone {
			out = append(out, n)
		}
	}
	return out
}

// run lets it happen.
func (w *world) run() outcome {
	end := int64(w.bound()) * limit
	for len(w.queue.events) > 0 && w.loading > 0 && w.now < end {
		e := w.queue.pop()
		w.now = e.at
		e.what.happen(w)
	}
	return w.outcome()
}

func (w *world) outcome() outcome {
	var times, fast []time.Duration
	o := outcome{bound: w.bound(), unfinished: w.loading}
	for _, n := range w.nodes[:w.scenario.nodes] {
		if n.ended > 0 {
			times = append(times, time.Duration(n.ended))
			if !n.slow {
				fast = append(fast, time.Duration(n.ended))
			}
		}
	}
	if len(times) > 0 {
		slices.Sort(times)
		o.last, o.p99, o.median = times[len(times)-1], times[(len(times)*99+99)/100-1], times[len(times)/2]
		o.fast = o.last
	}
	if len(fast) > 0 {
		o.fast = slices.Max(fast)
	}
	n := float64(w.scenario.nodes)
	o.copies = float64(w.origin.sent) / float64(w.size)
	o.announces, o.haves = float64(w.announces)/n, float64(w.haves)/n
	for _, bytes := range w.crossed {
		o.crossing = max(o.crossing, float64(bytes)/float64(w.size))
	}
	return o
}

func (o outcome) ratio(d time.Duration) string {
	return fmt.Sprintf("%.2f", d.Seconds()/o.bound.Seconds())
}

package main

import (
	"time"
)

// system is what containerd pulls through.
type system struct {
	name string
	// script starts a mirror that is not Kioo.
	script string
	kioo   bool
}

// scenario is one thing that happens to N nodes that pull the same image.
type scenario struct {
	name string
	// nodes is how many pull.
	nodes int
	// rate is each node's link in Mbit/s, each way, and upstream that of the registry.
	rate, upstream int64
	// holder says that one more node has the image, and that the registry is gone.
	holder bool
	// stagger is how much later each node starts than the one before.
	stagger time.Duration
	// victim is the node, from 1, that something happens to; 0 is none, and -1 whichever is asked most as a tracker.
	victim int
	// slow is the victim's link in Mbit/s.
	slow int64
	// fault happens to the victim half-way.
	fault fault
	// direct says that pulling without a mirror is compared.
	direct bool
	// goal is what the makespan may be at most, times the bound; 0 is none.
	goal float64
	// reference is the scenario of the same shape without the fault, with which the others' time is compared.
	reference string
}

// scenarios are all of them. 100 Mbit/s and 8 nodes are what two cores can move: the links are the limit, not they.
func scenarios() []scenario {
	const cold = "8 nodes, cold"
	all := []scenario{
		{name: "4 nodes, cold", nodes: 4, rate: 100, upstream: 100, direct: true, goal: 1.35},
		{name: cold, nodes: 8, rate: 100, upstream: 100, direct: true, goal: 1.35},
		{name: "16 nodes at 50 Mbit/s, cold", nodes: 16, rate: 50, upstream: 50},
		{name: "8 nodes, upstream at a quarter", nodes: 8, rate: 100, upstream: 25, goal: 1.15},
		{name: "8 nodes, one holder, no upstream", nodes: 8, rate: 100, upstream: 100, holder: true, goal: 1.4},
		{name: "8 nodes, each 1 s later", nodes: 8, rate: 100, upstream: 100, stagger: time.Second},
		{name: "8 nodes, one at a quarter", nodes: 8, rate: 100, upstream: 100, victim: 8, slow: 25},
	}
	for _, f := range []scenario{
		{name: "8 nodes, one mirror killed", victim: 3, fault: killed},
		{name: "8 nodes, tracker killed", victim: -1, fault: killed},
		{name: "8 nodes, one link goes black", victim: 3, fault: blackened},
		{name: "8 nodes, one has wrong bytes", victim: 3, fault: corrupted},
		{name: "8 nodes, one at a hundredth", victim: 3, slow: 1},
	} {
		f.nodes, f.rate, f.upstream, f.reference = 8, 100, 100, cold
		all = append(all, f)
	}
	return all
}

// systems are those that a scenario is measured with.
func (s scenario) systems(o options) []system {
	var all []system
	if s.direct && o.direct {
		all = append(all, system{name: "direct"})
	}
	if s.fault == nil { // What happens half-way, happens to a Kioo.
		all = append(all, o.scripts...)
	}
	return append(all, system{name: "kioo", kioo: true})
}

// bound is the time that the links allow at best for an image of so many bytes, by Kumar and Ross (Peer-assisted file
// distribution: the minimum distribution time, 2006): no copy leaves upstream, arrives at the slowest node, or leaves
// all that send, any faster. A node that starts later can't end before its own link has brought everything.
func (s scenario) bound(size int64) time.Duration {
	source, slowest := float64(s.upstream), float64(s.rate)
	if s.holder {
		source = float64(s.rate)
	}
	sum := float64(s.nodes) * float64(s.rate)
	if s.slow > 0 && s.reference == "" { // Where there is a reference, the others' time counts.
		slowest = float64(s.slow)
		sum -= float64(s.rate - s.slow)
	}
	mbits := float64(size) * 8 / 1e6
	seconds := max(mbits/source, mbits/slowest, float64(s.nodes)*mbits/(source+sum))
	return time.Duration(seconds*float64(time.Second)) + time.Duration(s.nodes-1)*s.stagger
}

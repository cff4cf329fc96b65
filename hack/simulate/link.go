package main

import (
	"slices"
	"time"
)

// link is one direction of a node's connection: an uplink sends a chunk of each flow in turn, a downlink takes chunks
// first come, first served. A flow has a few chunks on their way at most, so that an uplink does not send into a
// downlink that is behind, but sends for others meanwhile. That shares links about as TCP does.
type link struct {
	rate  float64 // Bytes per second.
	flows []*flow // Of an uplink, in the order of their turns.
	turn  int
	busy  bool
	free  int64 // Of a downlink: when it has taken all that was sent to it.
	sent  int64
}

// flow is a transfer of some bytes.
type flow struct {
	from, to *link
	latency  time.Duration
	chunk    int64
	window   int
	left     int64 // Not sent yet.
	inFlight int
	stopped  bool
	// last is called when all is sent, and done when all has arrived, or the flow was stopped.
	last, done func(w *world, f *flow)
}

func (w *world) start(f *flow) {
	f.from.flows = append(f.from.flows, f)
	w.kick(f.from)
}

// stop ends a flow: what is on its way arrives, for nothing.
func (w *world) stop(f *flow) {
	if f.stopped || f.left == 0 && f.inFlight == 0 {
		return
	}
	f.stopped, f.left = true, 0
	f.from.drop(f)
	if f.inFlight == 0 {
		f.done(w, f)
	}
}

func (l *link) drop(f *flow) {
	if i := slices.Index(l.flows, f); i >= 0 {
		l.flows = slices.Delete(l.flows, i, i+1)
		if l.turn > i {
			l.turn--
		}
	}
}

// kick has an uplink send the next chunk, if there is one to send.
func (w *world) kick(l *link) {
	if l.busy {
		return
	}
	for range l.flows {
		if l.turn >= len(l.flows) {
			l.turn = 0
		}
		f := l.flows[l.turn]
		l.turn++
		if f.inFlight >= f.window {
			continue
		}
		n := min(f.chunk, f.left)
		f.left -= n
		f.inFlight++
		l.sent += n
		l.busy = true
		w.queue.push(w.now+int64(float64(n)/l.rate*1e9), &sent{f: f, n: n})
		if f.left == 0 {
			l.drop(f)
		}
		return
	}
}

// sent is a chunk on its way: it leaves the uplink, arrives at the downlink, and has been taken by it.
type sent struct {
	f     *flow
	n     int64
	stage int
}

func (s *sent) happen(w *world) {
	f := s.f
	s.stage++
	switch s.stage {
	case 1:
		f.from.busy = false
		w.queue.push(w.now+int64(f.latency), s)
		if f.left == 0 && !f.stopped && f.last != nil {
			f.last(w, f)
		}
		w.kick(f.from)
	case 2:
		f.to.free = max(w.now, f.to.free) + int64(float64(s.n)/f.to.rate*1e9)
		w.queue.push(f.to.free, s)
	default:
		f.inFlight--
		if f.left == 0 && f.inFlight == 0 {
			f.done(w, f)
		} else if f.left > 0 {
			w.kick(f.from)
		}
	}
}

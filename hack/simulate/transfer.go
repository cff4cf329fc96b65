package main

import (
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// Chunks for each piece: more share links more evenly, at two events each.
const chunks = 4

func (w *world) crossing(from, to *node, bytes int64) {
	if from.zone != to.zone {
		w.crossed[to.zone] += bytes
	}
}

func (w *world) length(piece int) int64 {
	start, end := w.layout.Span(piece)
	return end - start
}

// request asks for a piece.
func (n *node) request(w *world, r swarm.Request) {
	t := &transfer{from: w.byID[r.Member], to: n, piece: r.Piece, deadline: r.Deadline}
	n.out = append(n.out, t)
	w.queue.push(w.now+int64(w.latency), t)
}

// happen is that a request reaches who is asked.
func (t *transfer) happen(w *world) {
	if t.over || t.from.gone {
		return
	}
	ask := t.from.uploads.Ask
	if t.from.load != nil && t.from.load.First(t.piece) {
		ask = t.from.uploads.AskFirst
	}
	switch verdict, hint := ask(w.time(), t.to.id); verdict {
	case swarm.Serve:
		t.from.serve(w, t)
	case swarm.Queue:
		t.from.waiting = append(t.from.waiting, t)
	case swarm.Refuse:
		w.after(w.latency, func(w *world) {
			if !t.over && !t.to.gone {
				t.end()
				t.to.do(w, t.to.load.Refused(w.time(), t.from.id, t.piece, hint))
			}
		})
	}
}

func (n *node) serve(w *world, t *transfer) {
	n.serving = append(n.serving, t)
	length := w.length(t.piece)
	t.flow = &flow{from: n.up, to: t.to.down, latency: w.latency, chunk: max(1, w.layout.PieceSize/chunks), window: 3, left: length,
		done: func(w *world, f *flow) {
			n.served(w, t)
			if t.to.gone || f.stopped || t.over {
				return
			}
			w.crossing(t.from, t.to, length)
			t.end()
			t.to.do(w, t.to.load.Arrived(w.time(), t.from.id, t.piece))
		}}
	w.start(t.flow)
}

// served frees the slot.
func (n *node) served(w *world, t *transfer) {
	n.serving = slices.DeleteFunc(n.serving, func(o *transfer) bool { return o == t })
	if n.gone {
		return
	}
	next, ok := n.uploads.Done(w.time(), t.to.id)
	if !ok {
		return
	}
	if i := slices.IndexFunc(n.waiting, func(o *transfer) bool { return o.to.id == next }); i >= 0 {
		waiting := n.waiting[i]
		n.waiting = slices.Delete(n.waiting, i, i+1)
		n.serve(w, waiting)
	}
}

func (t *transfer) end() {
	t.over = true
	t.to.out = slices.DeleteFunc(t.to.out, func(o *transfer) bool { return o == t })
}

// giveUp cancels a request, and its sender hears of it.
func (n *node) giveUp(w *world, t *transfer) {
	t.end()
	w.after(w.latency, func(w *world) {
		from := t.from
		if i := slices.Index(from.waiting, t); i >= 0 {
			from.waiting = slices.Delete(from.waiting, i, i+1)
			from.uploads.Abandon(n.id)
		} else if t.flow != nil && !t.flow.stopped {
			w.stop(t.flow)
		}
	})
}

const (
	// originLatency is one way to upstream, and originWait what it thinks about a request.
	originLatency = 10 * time.Millisecond
	originWait    = 20 * time.Millisecond
)

// stream reads a lease in order.
type stream struct {
	n     *node
	from  *node // Nil is upstream.
	lease swarm.Lease
	piece int
	flows []sending
	shut  bool
}

// sending is a piece on its way.
type sending struct {
	piece int
	*flow
}

// read starts to read a lease, beside those that are being read.
func (n *node) read(w *world, lease swarm.Lease) {
	if n.gone {
		return
	}
	s := &stream{n: n, lease: lease}
	if lease.From != "" {
		s.from = w.byID[lease.From]
	}
	s.piece, _ = w.layout.Covered(lease.Start, lease.End)
	n.streams = append(n.streams, s)
	s.open(w)
}

// open asks for the range from the next piece on that is not here.
func (s *stream) open(w *world) {
	if !s.skip(w) {
		s.finish()
		return
	}
	wait := 2*originLatency + originWait
	if s.from != nil {
		wait = 2 * w.latency
	}
	w.after(wait, s.send)
}

func (s *stream) skip(w *world) bool {
	_, last := w.layout.Covered(s.lease.Start, s.lease.End)
	for s.piece < last && s.n.load.Have().Has(s.piece) {
		s.piece++
	}
	return s.piece < last
}

// send has the source send one piece, and the next after it.
func (s *stream) send(w *world) {
	if s.shut || s.n.gone {
		return
	}
	if !s.skip(w) {
		s.finish()
		return
	}
	piece := s.piece
	s.piece++
	length := w.length(piece)
	f := &flow{from: w.origin, to: s.n.down, latency: originLatency, chunk: min(w.layout.PieceSize, 256<<10), window: 32, left: length}
	if s.from != nil {
		f.from, f.latency = s.from.up, w.latency
		w.crossing(s.from, s.n, length)
	}
	f.last = func(w *world, _ *flow) {
		if next := s.piece; s.skip(w) && s.piece != next {
			s.open(w)
		} else {
			s.send(w)
		}
	}
	f.done = func(w *world, f *flow) {
		s.flows = slices.DeleteFunc(s.flows, func(o sending) bool { return o.flow == f })
		if f.stopped || s.n.gone {
			return
		}
		s.n.fetched += length
		s.n.do(w, s.n.load.Fetched(w.time(), swarm.Have{Piece: piece, Hash: swarm.Hash{byte(piece), byte(piece >> 8)}}))
	}
	s.flows = append(s.flows, sending{piece, f})
	w.start(f)
}

func (s *stream) finish() {
	s.shut = true
	s.n.streams = slices.DeleteFunc(s.n.streams, func(o *stream) bool { return o == s })
}

// close sends no more, and stops what is on its way from a piece on.
func (s *stream) close(w *world, from int) {
	s.shut = true
	for _, f := range slices.Clone(s.flows) {
		if f.piece >= from {
			w.stop(f.flow)
		}
	}
}

// release gives up a range: streams in it end where it begins.
func (n *node) release(w *world, l swarm.Lease) {
	for _, s := range slices.Clone(n.streams) {
		if s.lease.From != l.From || s.lease.End <= l.Start || l.End <= s.lease.Start {
			continue
		}
		s.lease.End = max(s.lease.Start, l.Start)
		if start, _ := w.layout.Span(s.piece); start > s.lease.End || s.piece > 0 && s.lease.End <= start-w.layout.PieceSize {
			s.close(w, w.layout.At(s.lease.End)) // The last piece of the lease may still be on its way.
			s.finish()
		}
	}
}

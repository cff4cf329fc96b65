package main

import "time"

// event is something that happens at a time. What it means is up to its handler.
type event struct {
	at    int64 // Nanoseconds since the start.
	order uint64
	what  handler
}

type handler interface{ happen(w *world) }

// queue is a heap of events with four children each: half as deep as one with two.
type queue struct {
	events []event
	last   uint64
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.order < o.order }

func (q *queue) push(at int64, what handler) {
	q.last++
	e := event{at: at, order: q.last, what: what}
	q.events = append(q.events, e)
	i := len(q.events) - 1
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(q.events[parent]) {
			break
		}
		q.events[i] = q.events[parent]
		i = parent
	}
	q.events[i] = e
}

func (q *queue) pop() event {
	first := q.events[0]
	n := len(q.events) - 1
	e := q.events[n]
	q.events[n] = event{}
	q.events = q.events[:n]
	i := 0
	for {
		child := 4*i + 1
		if child >= n {
			break
		}
		last := min(child+4, n)
		for c := child + 1; c < last; c++ {
			if q.events[c].before(q.events[child]) {
				child = c
			}
		}
		if !q.events[child].before(e) {
			break
		}
		q.events[i] = q.events[child]
		i = child
	}
	if n > 0 {
		q.events[i] = e
	}
	return first
}

// call is an event that is a function.
type call func(w *world)

func (c call) happen(w *world) { c(w) }

func (w *world) after(d time.Duration, f func(w *world)) { w.queue.push(w.now+int64(d), call(f)) }

// every calls a function again and again until it says that it is enough.
func (w *world) every(d time.Duration, f func(w *world) bool) {
	var again func(w *world)
	again = func(w *world) {
		if f(w) {
			w.after(d, again)
		}
	}
	w.after(d, again)
}

package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

const fast = 125e6 // Bytes per second: 1 Gbit/s.

func base() scenario {
	return scenario{nodes: 30, size: 100 << 20, rate: fast, upstream: fast, seed: 1, jitter: 20 * time.Millisecond,
		latency: 250 * time.Microsecond}
}

func TestSameSeedSameRun(t *testing.T) {
	one, two := newWorld(base()).run(), newWorld(base()).run()
	if one != two {
		t.Errorf("two runs with one seed differ:\n%+v\n%+v", one, two)
	}
	other := base()
	other.seed = 2
	if three := newWorld(other).run(); one == three {
		t.Error("another seed gives the same run")
	}
}

func TestGoals(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(s *scenario)
		ratio  float64
		copies float64
	}{
		{"cold", func(*scenario) {}, 1.35, 1.05},
		{"slow upstream", func(s *scenario) { s.upstream = fast / 4 }, 1.1, 1.05},
		{"alone", func(s *scenario) { s.nodes = 1 }, 1.1, 1},
		{"one holder", func(s *scenario) { s.holders = 1 }, 1.35, 0},
		{"alone with a holder", func(s *scenario) { s.nodes, s.holders, s.jitter = 1, 1, 0 }, 1.02, 0},
		{"deaths", func(s *scenario) { s.rate, s.upstream, s.dying, s.dyingLease = fast/10, fast/10, 0.05, true }, 1.7, 1.3},
		{"no tracker", func(s *scenario) { s.rate, s.upstream, s.noCoord = fast/10, fast/10, true }, 1.5, 1.3},
		{"zones", func(s *scenario) { s.rate, s.upstream, s.zones = fast/10, fast/10, 3 }, 1.4, 1.05},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := base()
			test.change(&s)
			o := newWorld(s).run()
			if o.unfinished > 0 {
				t.Fatalf("%d are not done", o.unfinished)
			}
			if ratio := o.last.Seconds() / o.bound.Seconds(); ratio > test.ratio || ratio < 1 {
				t.Errorf("the last is done after %.2f of the bound, want 1 to %.2f", ratio, test.ratio)
			}
			if o.copies > test.copies+1e-9 {
				t.Errorf("%.3f copies from upstream, want at most %.2f", o.copies, test.copies)
			}
			if s.zones > 1 && o.crossing > 1.3 {
				t.Errorf("a zone got %.2f copies from others", o.crossing)
			}
		})
	}
}

func TestLinksAreShared(t *testing.T) {
	w := newWorld(base())
	w.queue = queue{}
	up, down := &link{rate: 1000}, &link{rate: 1000}
	other := &link{rate: 100}
	var ends []int64
	for _, to := range []*link{down, other, down} {
		w.start(&flow{from: up, to: to, chunk: 10, window: 2, left: 100, done: func(w *world, _ *flow) { ends = append(ends, w.now) }})
	}
	for len(w.queue.events) > 0 {
		e := w.queue.pop()
		w.now = e.at
		e.what.happen(w)
	}
	// The slow receiver takes a second; the others share what it leaves of the uplink.
	if len(ends) != 3 || ends[1] > 260e6 || ends[2] < 1e9 || ends[2] > 1.05e9 {
		t.Errorf("flows end at %v", ends)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-nodes", "2", "-size", "8"}, &out); err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(out.Bytes(), []byte("\n")); lines != 2 {
		t.Errorf("%d lines:\n%s", lines, out.Bytes())
	}
	if err := run([]string{"-nodes", "many"}, &out); err == nil {
		t.Error("nonsense is accepted")
	}
}

func TestQueueIsInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var q queue
	var last event
	for range 20000 {
		if len(q.events) == 0 || r.IntN(5) < 3 {
			q.push(last.at+r.Int64N(50), call(nil))
			continue
		}
		e := q.pop()
		if e.before(last) {
			t.Fatalf("%d comes after %d", e.at, last.at)
		}
		last = e
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	repository = "bench/app"
	tag        = "v1"
	// startTime bounds the start of a fleet, and how long its nodes may take to find each other.
	startTime = 2 * time.Minute
	// pullTime bounds all pulls of one measurement.
	pullTime = 15 * time.Minute
)

// result is one measurement.
type result struct {
	// makespan is when the last node has the image, others when the last one has to which nothing happens, and median
	// when half of all have: since the first one started.
	makespan, others, median time.Duration
	// copies is what upstream sent, in images, and tags how often it was asked what the tag means.
	copies float64
	tags   int
	// peak is the largest resident set of a mirror in bytes, and work the mirrors' processor time per GiB of image that
	// a node got.
	peak int64
	work time.Duration
	// busy is the share of the machine's processors that was in use.
	busy float64
}

// trial is one measurement while it runs.
type trial struct {
	scenario
	system
	fleet   *fleet.Fleet
	size    int64
	pullers []*fleet.Node
	scripts []*process.Process
	began   time.Time

	mu     sync.Mutex
	chosen *fleet.Node // The victim; nil as long as there is none.
	took   map[*fleet.Node]time.Duration
	work   time.Duration // Of mirrors that were killed.
	peak   int64         // Likewise.
}

func measure(ctx context.Context, o options, s scenario, sys system) (_ result, err error) {
	cfg := fleet.Config{Nodes: s.nodes, NoMirror: !sys.kioo, Kioo: o.kioo}
	if s.holder {
		cfg.Nodes++
	}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	f, err := fleet.New(starting, cfg)
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := &trial{scenario: s, system: sys, fleet: f, took: map[*fleet.Node]time.Duration{}}
	defer t.stopScripts()
	if err := t.prepare(starting, o); err != nil {
		return result{}, err
	}
	return t.run(ctx)
}

// prepare gives upstream the image and the links their rates.
func (t *trial) prepare(ctx context.Context, o options) error {
	if err := t.startScripts(ctx); err != nil {
		return err
	}
	layer := o.size * 1e6 / 2
	img, err := registrytest.NewImage(uint64(time.Now().UnixNano()), v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		layer, layer)
	if err != nil {
		return err
	}
	if _, err := t.fleet.Upstream.Push(ctx, repository+":"+tag, img); err != nil {
		return err
	}
	t.size = 2 * layer
	if t.kioo {
		if err := t.fleet.Settle(ctx); err != nil {
			return err
		}
	}
	t.pullers = t.fleet.Nodes[:t.nodes]
	if t.holder {
		if err := t.hold(ctx, t.fleet.Nodes[t.nodes]); err != nil {
			return err
		}
	}
	for _, n := range t.fleet.Nodes {
		if err := n.Shape(ctx, fleet.Link{Rate: t.rate * 1e6}); err != nil {
			return err
		}
	}
	if t.victim > 0 {
		t.chosen = t.pullers[t.victim-1]
	}
	if t.slow > 0 {
		if err := t.chosen.Shape(ctx, fleet.Link{Rate: t.slow * 1e6}); err != nil {
			return err
		}
	}
	t.fleet.Upstream.Forget()
	return t.fleet.Upstream.Shape(ctx, fleet.Link{Rate: t.upstream * 1e6})
}

// hold has one node pull the image and announce it, and the registry go.
func (t *trial) hold(ctx context.Context, holder *fleet.Node) error {
	if err := holder.Pull(ctx, t.image()); err != nil {
		return err
	}
	if t.kioo {
		if err := t.fleet.Await(ctx, "has announced everything", func(m fleet.Metrics) bool {
			return m.Sum("kioo_discovery_pending_keys") == 0
		}); err != nil {
			return err
		}
	}
	t.fleet.Upstream.Stop()
	return nil
}

func (t *trial) image() string { return t.fleet.Upstream.Image(repository + ":" + tag) }

// run pulls everywhere and has happen what is to happen.
func (t *trial) run(ctx context.Context) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTime)
	defer cancel()
	idle, all, err := machineTime()
	if err != nil {
		return result{}, err
	}
	before := t.processorTime()
	t.began = time.Now()
	var (
		pulling sync.WaitGroup
		errs    = make([]error, len(t.pullers)+1)
	)
	others := make(chan struct{}, len(t.pullers))
	for i, n := range t.pullers {
		pulling.Go(func() {
			errs[i] = t.pull(ctx, n, time.Duration(i)*t.stagger)
			if n != t.theVictim() {
				others <- struct{}{}
			}
		})
	}
	errs[len(t.pullers)] = t.happen(ctx, others)
	pulling.Wait()
	if err := errors.Join(errs...); err != nil {
		return result{}, err
	}
	r := t.result()
	idleNow, allNow, err := machineTime()
	r.busy = 1 - (idleNow-idle)/(allNow-all)
	r.work = time.Duration(float64(t.processorTime()+t.work-before) / (float64(t.size) * float64(t.nodes) / (1 << 30)))
	return r, err
}

func (t *trial) pull(ctx context.Context, n *fleet.Node, after time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(after):
	}
	if err := n.Pull(ctx, t.image()); err != nil {
		return fmt.Errorf("%s: %w; the end of its mirror's log:\n%s", n.Name, err, lastLines(n.Log(), 20))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took[n] = time.Since(t.began)
	return nil
}

func (t *trial) theVictim() *fleet.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.chosen
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (t *trial) result() result {
	var r result
	var all []time.Duration
	for n, took := range t.took {
		all = append(all, took)
		if n != t.chosen {
			r.others = max(r.others, took)
		}
	}
	slices.Sort(all)
	r.makespan, r.median = all[len(all)-1], all[len(all)/2]
	r.copies = float64(t.fleet.Upstream.BlobBytes("")) / float64(t.size)
	for _, req := range t.fleet.Upstream.Requests() {
		if strings.Contains(req.URI, "/manifests/"+tag) {
			r.tags++
		}
	}
	r.peak = t.peak
	for _, n := range t.fleet.Nodes {
		if m, err := process.ReadMemory(pid(n)); err == nil {
			r.peak = max(r.peak, m.Peak)
		}
	}
	return r
}

// processorTime is what the mirrors have used.
func (t *trial) processorTime() time.Duration {
	var sum time.Duration
	for _, n := range t.fleet.Nodes {
		if used, err := process.ProcessorTime(pid(n)); err == nil { // One that was killed is counted before.
			sum += used
		}
	}
	return sum
}

// pid is of a node's Kioo; of no process if there is none.
func pid(n *fleet.Node) int {
	if p := n.Kioo(); p != nil && p.Err() == nil {
		return p.PID()
	}
	return -1
}

// machineTime is how long the processors were idle so far, and how long there were any, in ticks.
func machineTime() (idle, all float64, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	var ticks [8]float64
	if _, err := fmt.Sscanf(string(stat), "cpu %f %f %f %f %f %f %f %f", &ticks[0], &ticks[1], &ticks[2], &ticks[3],
		&ticks[4], &ticks[5], &ticks[6], &ticks[7]); err != nil {
		return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
	}
	for _, n := range ticks {
		all += n
	}
	return ticks[3] + ticks[4], all, nil
}

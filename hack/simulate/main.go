// Command simulate lets thousands of members pull one blob in a simulated network, with the same core as the daemon's,
// and prints how near to the physical limit they come.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	s := scenario{}
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&s.nodes, "nodes", 0, "simulate one run of so many nodes, as the other flags say; 0 prints the table")
	full := flags.Bool("full", false, "the whole table: 1000 nodes and 10 GiB too, and 5000 nodes; takes long")
	size := flags.Float64("size", 1024, "size of the blob in MiB")
	rate := flags.Float64("rate", 1000, "Mbit/s of each node, up and down")
	upstream := flags.Float64("upstream", 1, "speed of upstream as a multiple of a node's")
	flags.Uint64Var(&s.seed, "seed", 1, "of all that is random")
	flags.IntVar(&s.holders, "holders", 0, "further nodes that have the blob")
	flags.IntVar(&s.zones, "zones", 1, "among which the nodes are divided")
	flags.DurationVar(&s.jitter, "jitter", 20*time.Millisecond, "within which the nodes begin")
	flags.Float64Var(&s.slow, "slow", 0, "part of the nodes that is slow")
	flags.Float64Var(&s.slowness, "slowness", 0.25, "their speed as a part of the others'")
	flags.Float64Var(&s.dying, "dying", 0, "part of the nodes that dies half-way, half of them without a word")
	flags.BoolVar(&s.dyingLease, "dying-leases", false, "half of those who fetch from upstream half-way are among them")
	flags.BoolVar(&s.noCoord, "tracker-dies", false, "half-way")
	flags.DurationVar(&s.latency, "latency", 250*time.Microsecond, "one way between two nodes")
	flags.IntVar(&s.slots, "slots", 0, "uploads at once of each node; 0 is the core's choice")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s.rate = *rate * 1e6 / 8
	if s.nodes > 0 {
		s.size, s.upstream = int64(*size*(1<<20)), s.rate**upstream
		return table(out, []scenario{s})
	}
	scenarios := healthy(s, *full)
	if err := table(out, scenarios); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	if err != nil {
		return err
	}
	return table(out, faulty(s))
}

// healthy is the table of sizes.
func healthy(base scenario, full bool) (all []scenario) {
	sizes, counts := []int64{100_000_000, 1 << 30}, []int{3, 10, 100}
	if full {
		sizes, counts = append(sizes, 10<<30), append(counts, 1000, 5000)
	}
	for _, size := range sizes {
		for _, n := range counts {
			for _, share := range []float64{1, 0.5, 0.1} {
				s := base
				s.nodes, s.size, s.upstream = n, size, base.rate*share
				all = append(all, s)
			}
		}
	}
	if !full {
		s := base
		s.nodes, s.size, s.upstream = 300, 100_000_000, base.rate
		all = append(all, s)
		s.nodes, s.size = 1000, 1<<30
		all = append(all, s)
	}
	return all
}

// faulty is what may go wrong, with 100 nodes and 1 GiB.
func faulty(base scenario) []scenario {
	base.nodes, base.size, base.upstream = 100, 1<<30, base.rate
	with := func(note string, change func(s *scenario)) scenario {
		s := base
		s.note = note
		change(&s)
		return s
	}
	return []scenario{
		with("nothing goes wrong", func(*scenario) {}),
		with("5% die, half of those fetching too", func(s *scenario) { s.dying, s.dyingLease = 0.05, true }),
		with("the same, upstream at half speed", func(s *scenario) { s.dying, s.dyingLease, s.upstream = 0.05, true, s.rate/2 }),
		with("the tracker dies", func(s *scenario) { s.noCoord = true }),
		with("10% at a quarter of the speed", func(s *scenario) { s.slow = 0.1 }),
		with("one at 1% of the speed", func(s *scenario) { s.slow, s.slowness = 0.01, 0.01 }),
		with("3 zones", func(s *scenario) { s.zones = 3 }),
		with("one holder, no upstream", func(s *scenario) { s.holders = 1 }),
		with("they begin within 2 s", func(s *scenario) { s.jitter = 2 * time.Second }),
	}
}

// table runs scenarios, as many at once as there are processors, and prints a line for each in order.
func table(out io.Writer, all []scenario) error {
	results := make([]chan string, len(all))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range all {
		results[i] = make(chan string, 1)
	}
	go func() {
		for i, s := range all {
			slots <- struct{}{}
			go func() {
				results[i] <- line(s)
				<-slots
			}()
		}
	}()
	_, err := fmt.Fprintln(out, " nodes   MiB upstream   bound   last    p99 median   fast copies announces haves crossed unfinished")
	for i := range all {
		if _, e := io.WriteString(out, <-results[i]); err == nil {
			err = e
		}
	}
	return err
}

// line runs one scenario.
func line(s scenario) string {
	o := newWorld(s).run()
	return strings.TrimRight(fmt.Sprintf("%6d %5d %8.2f %6.1fs %6s %6s %6s %6s %6.3f %9.1f %5.0f %7.2f %10d  %s",
		s.nodes, s.size>>20, s.upstream/s.rate, o.bound.Seconds(), o.ratio(o.last), o.ratio(o.p99), o.ratio(o.median), o.ratio(o.fast),
		o.copies, o.announces, o.haves, o.crossing, o.unfinished, s.note), " ") + "\n"
}

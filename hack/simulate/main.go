// Command simulate lets thousands of members pull one blob in a simulated network, with the same core as the daemon's,
// and prints how near to the physical limit they come.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"time"
)

func main() {
	s := scenario{}
	flag.IntVar(&s.nodes, "n", 100, "")
	size := flag.Int64("size", 1<<30, "")
	rate := flag.Float64("rate", 1000, "Mbit/s")
	up := flag.Float64("up", 1, "")
	flag.Uint64Var(&s.seed, "seed", 1, "")
	flag.IntVar(&s.holders, "holders", 0, "")
	flag.IntVar(&s.zones, "zones", 1, "")
	flag.DurationVar(&s.jitter, "jitter", 20*time.Millisecond, "")
	flag.Float64Var(&s.slow, "slow", 0, "")
	flag.Float64Var(&s.slowness, "slowness", 0.25, "")
	flag.Float64Var(&s.dying, "dying", 0, "")
	flag.BoolVar(&s.dyingLease, "dyinglease", false, "")
	flag.BoolVar(&s.noCoord, "nocoord", false, "")
	flag.DurationVar(&s.latency, "latency", 250*time.Microsecond, "")
	flag.IntVar(&s.slots, "slots", 8, "")
	flag.Parse()
	s.size = *size
	s.rate = *rate * 1e6 / 8
	s.upstream = s.rate * *up
	if p := os.Getenv("PROF"); p != "" {
		f, _ := os.Create(p)
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	t := time.Now()
	w := newWorld(s)
	w.debug()
	o := w.run()
	fmt.Fprintf(os.Stdout, "bound %v last %s p99 %s median %s fast %s copies %.3f announces %.1f haves %.0f cross %.2f unfinished %d retries %.2f wasted %.3f  (%v)\n",
		o.bound.Round(time.Millisecond), o.ratio(o.last), o.ratio(o.p99), o.ratio(o.median), o.ratio(o.fast), o.copies, o.announces, o.haves, o.crossing,
		o.unfinished, o.retries, o.wasted, time.Since(t).Round(time.Millisecond))
}

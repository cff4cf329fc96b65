// Command discoverybench measures discovery: many members in one process, over loopback, each with thousands of keys
// of its own. It prints how long it takes until all is found from everywhere, what look-ups, messages, processor time
// and memory come to, and how long look-ups are wrong after a fifth of the members were killed. Then it does a
// smaller round with kad-dht's own provider records beside ours.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

type options struct {
	nodes, keys           int
	smallNodes, smallKeys int
	lookups               int
	verify                bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "discoverybench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("discoverybench", flag.ContinueOnError)
	flags.IntVar(&o.nodes, "nodes", 50, "members")
	flags.IntVar(&o.keys, "keys", 5000, "keys of each member")
	flags.IntVar(&o.smallNodes, "compare-nodes", 20, "members in the comparison with kad-dht; 0 skips it")
	flags.IntVar(&o.smallKeys, "compare-keys", 200, "keys of each member in the comparison")
	flags.IntVar(&o.lookups, "lookups", 5000, "hits and misses to time, each")
	flags.BoolVar(&o.verify, "verify", true, "look up every key once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d members in one process, %d keys each, over loopback\n", o.nodes, o.keys)
	if err := measureOwn(ctx, out, o); err != nil {
		return err
	}
	if o.smallNodes == 0 {
		return nil
	}
	fmt.Fprintf(out, "\ncomparison: %d members, %d keys each\n", o.smallNodes, o.smallKeys)
	small := o
	small.nodes, small.keys, small.lookups = o.smallNodes, o.smallKeys, min(o.lookups, 1000)
	ours, err := compareOwn(ctx, small)
	if err != nil {
		return fmt.Errorf("own records: %w", err)
	}
	theirs, err := compareKad(ctx, small)
	if err != nil {
		return fmt.Errorf("provider records: %w", err)
	}
	fmt.Fprintf(out, "%-36s %14s %14s\n", "", "own records", "kad-dht's")
	for i, row := range ours.rows() {
		fmt.Fprintf(out, "%-36s %14s %14s\n", row[0], row[1], theirs.rows()[i][1])
	}
	return nil
}

// figures are what both kinds of records are compared by.
type figures struct {
	announced  time.Duration
	messages   float64 // Per member, to announce.
	cpu        time.Duration
	hits, miss []time.Duration
	lost       int
}

func (f figures) rows() [][2]string {
	return [][2]string{
		{"until all is announced", f.announced.Round(time.Millisecond).String()},
		{"requests served per member", fmt.Sprintf("%.0f", f.messages)},
		{"CPU per member", f.cpu.Round(time.Millisecond).String()},
		{"look-up hit p50 / p99", percentiles(f.hits)},
		{"look-up miss p50 / p99", percentiles(f.miss)},
		{"look-ups that should hit and did not", fmt.Sprint(f.lost)},
	}
}

func percentiles(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	d = slices.Clone(d)
	slices.Sort(d)
	at := func(p int) string { return fmt.Sprintf("%.2f", float64(d[(len(d)-1)*p/100].Microseconds())/1000) }
	return at(50) + " / " + at(99) + " ms"
}

// cpuTime is what the process has used so far, in user and system mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// waitTime is how long the process's threads were ready and had no processor. Where it is not small, others used the
// machine, and times are theirs as well as ours.
func waitTime() time.Duration {
	files, err := filepath.Glob("/proc/self/task/*/schedstat")
	if err != nil {
		return 0
	}
	var sum time.Duration
	for _, f := range files {
		var ran, waited int64
		if raw, err := os.ReadFile(f); err == nil {
			if _, err := fmt.Sscan(string(raw), &ran, &waited); err == nil {
				sum += time.Duration(waited)
			}
		}
	}
	return sum
}

// keyName names the i-th key of a member; of member -1 nobody holds any.
func keyName(node, i int) string { return fmt.Sprintf("member %d, key %d", node, i) }

// sample times n look-ups one after the other, each from a random member of another's random key, or of a key that
// nobody holds. look reports whether it found the holder.
func sample(n, nodes, keys int, miss bool, look func(from, holder, i int) bool) (took []time.Duration, found int) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range n {
		from, holder := rnd.IntN(nodes), rnd.IntN(nodes)
		if from == holder {
			holder = (holder + 1) % nodes
		}
		if miss {
			holder = -1
		}
		began := time.Now()
		if look(from, holder, rnd.IntN(keys)) {
			found++
		}
		took = append(took, time.Since(began))
	}
	return took, found
}

// parallel calls do for 0 to n-1, some at once, and gives the first error.
func parallel(n, atOnce int, do func(int) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, atOnce)
	)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return first
}

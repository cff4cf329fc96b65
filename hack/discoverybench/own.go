package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// settleTimeout bounds every wait for the fleet.
const settleTimeout = 3 * time.Minute

type member struct {
	*discovery.Discovery
	reg  *prometheus.Registry
	stop context.CancelFunc
	done chan error
}

type fleet []*member

func key(node, i int) discovery.Key { return discovery.DigestKey(digest.FromString(keyName(node, i))) }

func entries(node, keys int) []discovery.Entry {
	all := make([]discovery.Entry, keys)
	for i := range all {
		all[i].Key = key(node, i)
	}
	return all
}

// startFleet starts members as fast as they come up. Each has its keys from the start, and knows the first three.
func startFleet(ctx context.Context, nodes, keys int) (f fleet, err error) {
	secret := make([]byte, 32)
	var seeds discovery.Static
	holdings := make([][]discovery.Entry, nodes)
	for n := range holdings {
		holdings[n] = entries(n, keys)
	}
	for n := range nodes {
		m := &member{reg: prometheus.NewRegistry(), done: make(chan error, 1)}
		m.Discovery, err = discovery.New(discovery.Config{
			Keys: [][]byte{secret}, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
			PeerAPI: []string{fmt.Sprintf("10.0.%d.%d:28501", n/250, n%250+1)}, Zone: fmt.Sprintf("zone-%d", n%3),
			Bootstrap: slices.Clone(seeds), Registerer: m.reg,
			GoodbyeTimeout: 1, // Nobody gets to say goodbye: to end a member is to kill it.
		})
		if err != nil {
			return f, err
		}
		m.Set(holdings[n], nil)
		var running context.Context
		running, m.stop = context.WithCancel(ctx)
		go func() { m.done <- m.Run(running) }()
		select {
		case <-m.Started():
			f = append(f, m)
		case err := <-m.done:
			return f, err
		}
		if n < 3 {
			seeds = append(seeds, m.Self().Addrs...)
		}
	}
	return f, nil
}

func (f fleet) end() error {
	var errs []error
	for _, m := range f {
		m.stop()
	}
	for _, m := range f {
		errs = append(errs, <-m.done)
	}
	return errors.Join(errs...)
}

// finds says whether a look-up names exactly the holder.
func (f fleet) finds(ctx context.Context, from *member, holder peer.ID, k discovery.Key) bool {
	found, err := from.Providers(ctx, k)
	if err != nil {
		return false
	}
	if holder == "" {
		return len(found) == 0
	}
	return len(found) == 1 && found[0].Member.ID == holder
}

func (f fleet) sample(ctx context.Context, n, keys int, miss bool) ([]time.Duration, int) {
	return sample(n, len(f), keys, miss, func(from, holder, i int) bool {
		id := peer.ID("")
		if !miss {
			id = f[holder].Self().ID
		}
		return f.finds(ctx, f[from], id, key(holder, i))
	})
}

// settle waits until nobody has anything left to tell and spot checks succeed. It gives when that began to be so.
func (f fleet) settle(ctx context.Context, check func() bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		at := time.Now()
		pending := slices.ContainsFunc(f, func(m *member) bool { return m.Pending() > 0 || len(m.Members()) == 0 })
		if !pending && check() {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return at, fmt.Errorf("the fleet does not settle: %s: %w", f.state(), ctx.Err())
		case <-poll.C:
		}
	}
}

// state says what a fleet that does not settle is doing.
func (f fleet) state() string {
	pending, keys, members := 0, 0, 0
	for _, m := range f {
		if n := m.Pending(); n > 0 {
			pending, keys = pending+1, keys+n
		}
		members += len(m.Members())
	}
	_, kinds := f.served()
	return fmt.Sprintf("%d members have %d keys to tell, know %d others on average, served %v",
		pending, keys, members/len(f), kinds)
}

// served counts the requests that members answered, by kind.
func (f fleet) served() (total float64, byKind map[string]float64) {
	byKind = map[string]float64{}
	for _, m := range f {
		families, err := m.reg.Gather()
		if err != nil {
			continue
		}
		for _, family := range families {
			if family.GetName() != "kioo_discovery_served_total" {
				continue
			}
			for _, metric := range family.GetMetric() {
				byKind[metric.GetLabel()[0].GetValue()] += metric.GetCounter().GetValue()
				total += metric.GetCounter().GetValue()
			}
		}
	}
	return total, byKind
}

func measureOwn(ctx context.Context, out io.Writer, o options) (err error) {
	began, cpu, waited := time.Now(), cpuTime(), waitTime()
	f, err := startFleet(ctx, o.nodes, o.keys)
	defer func() { err = errors.Join(err, f.end()) }()
	if err != nil {
		return err
	}
	started := time.Now()
	spot := func() bool { _, n := f.sample(ctx, 300, o.keys, false); return n == 300 }
	settled, err := f.settle(ctx, spot)
	if err != nil {
		return err
	}
	used := cpuTime() - cpu
	waited = waitTime() - waited
	total, kinds := f.served()
	n := float64(o.nodes)
	fmt.Fprintf(out, "all started after                  %v\n", started.Sub(began).Round(time.Millisecond))
	fmt.Fprintf(out, "all found, after the last start    %v\n", max(0, settled.Sub(started)).Round(time.Millisecond))
	fmt.Fprintf(out, "requests served per member         %.0f (announce %.0f, hello %.0f)\n",
		total/n, kinds["announce"]/n, kinds["hello"]/n)
	fmt.Fprintf(out, "CPU per member, start included     %v\n", (used / time.Duration(o.nodes)).Round(time.Millisecond))
	fmt.Fprintf(out, "threads ready, but without a core   %v in all, over %v\n",
		waited.Round(time.Millisecond), settled.Sub(began).Round(time.Millisecond))
	hits, found := f.sample(ctx, o.lookups, o.keys, false)
	fmt.Fprintf(out, "look-up hit  p50 / p99             %s (%d of %d found)\n", percentiles(hits), found, o.lookups)
	misses, missed := f.sample(ctx, o.lookups, o.keys, true)
	fmt.Fprintf(out, "look-up miss p50 / p99             %s (%d of %d answered so)\n",
		percentiles(misses), missed, o.lookups)
	if o.verify {
		f.verify(ctx, out, o)
	}
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	fmt.Fprintf(out, "memory per member, from the OS     %.1f MiB (in use: heap %.1f, stacks %.1f)\n",
		float64(mem.Sys-mem.HeapReleased)/n/(1<<20), float64(mem.HeapInuse)/n/(1<<20), float64(mem.StackInuse)/n/(1<<20))
	idle := cpuTime()
	select {
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
	}
	fmt.Fprintf(out, "CPU per member at rest             %.2f %% of a core\n", (cpuTime()-idle).Seconds()/10/n*100)
	return f.kill(ctx, out, o)
}

// verify looks up every key once, each from a random member.
func (f fleet) verify(ctx context.Context, out io.Writer, o options) {
	var lost atomic.Int64
	began := time.Now()
	_ = parallel(o.nodes*o.keys, 8, func(i int) error {
		holder := i / o.keys
		from := (holder + 1 + rand.IntN(o.nodes-1)) % o.nodes
		if !f.finds(ctx, f[from], f[holder].Self().ID, key(holder, i%o.keys)) {
			lost.Add(1)
		}
		return nil
	})
	took := time.Since(began)
	fmt.Fprintf(out, "every key looked up once           %d of %d not found; %.0f look-ups/s\n",
		lost.Load(), o.nodes*o.keys, float64(o.nodes*o.keys)/took.Seconds())
}

// kill ends a fifth of the members at once and measures until look-ups are right again: what the others hold is
// found, and nobody who is dead is named.
func (f fleet) kill(ctx context.Context, out io.Writer, o options) error {
	dead, alive := f[:o.nodes/5], f[o.nodes/5:]
	ids := make([]peer.ID, len(f))
	for i, m := range f {
		ids[i] = m.Self().ID
	}
	killed := time.Now()
	for _, m := range dead {
		m.stop()
	}
	for _, m := range dead {
		m.done <- <-m.done // Its connections are gone now; end wants to hear of it too.
	}
	ended := time.Since(killed)
	first := 0
	rnd := rand.New(rand.NewPCG(3, 4))
	check := func() bool {
		wrong := 0
		for range 500 {
			holder, from := rnd.IntN(o.nodes), alive[rnd.IntN(len(alive))]
			id := ids[holder]
			if holder < len(dead) {
				id = ""
			}
			if from.Self().ID != id && !f.finds(ctx, from, id, key(holder, rnd.IntN(o.keys))) {
				wrong++
			}
		}
		first = max(first, wrong)
		return wrong == 0
	}
	var right time.Time
	for limit := time.Now().Add(settleTimeout); ; {
		right = time.Now()
		if check() {
			break
		}
		if time.Now().After(limit) || ctx.Err() != nil {
			return errors.New("look-ups do not get right again")
		}
	}
	settled, err := alive.settle(ctx, check)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d members killed at once\n", len(dead), o.nodes)
	fmt.Fprintf(out, "look-ups right again after         %v, of which ending them took %v (then %d of 500 were wrong)\n",
		right.Sub(killed).Round(time.Millisecond), ended.Round(time.Millisecond), first)
	fmt.Fprintf(out, "three copies of all again after    %v\n", settled.Sub(killed).Round(time.Millisecond))
	hits, _ := alive.sampleAlive(ctx, o, len(dead))
	fmt.Fprintf(out, "look-up hit  p50 / p99             %s\n", percentiles(hits))
	return nil
}

// sampleAlive times hits among the survivors, whose keys are numbered from offset on.
func (f fleet) sampleAlive(ctx context.Context, o options, offset int) ([]time.Duration, int) {
	return sample(min(o.lookups, 2000), len(f), o.keys, false, func(from, holder, i int) bool {
		return f.finds(ctx, f[from], f[holder].Self().ID, key(holder+offset, i))
	})
}

func compareOwn(ctx context.Context, o options) (fig figures, err error) {
	f, err := startFleet(ctx, o.nodes, 0)
	defer func() { err = errors.Join(err, f.end()) }()
	if err != nil {
		return fig, err
	}
	if _, err := f.settle(ctx, func() bool { return true }); err != nil {
		return fig, err
	}
	before, _ := f.served()
	began, cpu := time.Now(), cpuTime()
	for n, m := range f {
		m.Set(entries(n, o.keys), nil)
	}
	settled, err := f.settle(ctx, func() bool { return true })
	if err != nil {
		return fig, err
	}
	after, _ := f.served()
	fig.announced, fig.messages = settled.Sub(began), (after-before)/float64(o.nodes)
	fig.cpu = (cpuTime() - cpu) / time.Duration(o.nodes)
	found := 0
	fig.hits, found = f.sample(ctx, o.lookups, o.keys, false)
	fig.miss, _ = f.sample(ctx, o.lookups, o.keys, true)
	fig.lost = o.lookups - found
	return fig, nil
}

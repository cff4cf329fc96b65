package discovery

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxBootstrap bounds how many addresses one round of bootstrap considers.
	maxBootstrap = 4096
	// asksPerRound is how many unknown addresses one round tries. Few are enough: who is found names the others.
	asksPerRound = 8
	// roundTimeout bounds one round; looking up names has the first half of it.
	roundTimeout = 20 * time.Second
	askTimeout   = 8 * time.Second
	// lonelyFirst is the time between rounds while there is nobody yet; it doubles.
	lonelyFirst = 500 * time.Millisecond
)

// join looks for members: often while there are none, and now and then ever after, because two islands do not
// learn of each other by themselves.
func (d *Discovery) join(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	lonely, failing := lonelyFirst, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := d.round(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			d.log.Info("bootstrap finds no addresses; it goes on trying", "reason", err.Error())
		}
		failing = err != nil
		wait := d.cfg.BootstrapInterval
		if d.alone() {
			wait, lonely = min(lonely, wait), min(2*lonely, d.cfg.BootstrapInterval)
		} else {
			lonely = lonelyFirst
		}
		d.mu.Lock()
		jitter := 0.8 + 0.4*d.rand.Float64() // So that members that started together do not ask together.
		d.mu.Unlock()
		timer.Reset(time.Duration(float64(wait) * jitter))
	}
}

func (d *Discovery) alone() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	alive, _, _ := d.table.Count()
	return alive == 0
}

// round asks where members may be, and gets to know those that are unknown. It fails if nobody said where.
func (d *Discovery) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	lookup, done := context.WithTimeout(ctx, roundTimeout/2)
	addrs, err := d.cfg.Bootstrap.Peers(lookup)
	done()
	if err != nil {
		d.metrics.rounds.WithLabelValues("failed").Inc()
		return err
	}
	d.metrics.rounds.WithLabelValues("ok").Inc()
	d.list(addrs)
	unknown := d.unknown(addrs)
	met := make(chan bool, len(unknown))
	for _, a := range unknown {
		d.tasks.Go(func() { met <- d.meet(ctx, a) })
	}
	news := false
	for range unknown {
		news = <-met || news
	}
	if news {
		d.node.dht.RefreshRoutingTable() // Its result comes by a buffered channel that nobody needs.
	}
	return nil
}

// unknown picks from addresses those that are neither ours nor those of a member that is alive.
func (d *Discovery) unknown(addrs []netip.AddrPort) []netip.AddrPort {
	addrs = slices.Clone(addrs[:min(len(addrs), maxBootstrap)])
	d.mu.Lock()
	defer d.mu.Unlock()
	known := map[netip.AddrPort]bool{}
	for _, a := range d.table.Self().Addrs {
		known[a] = true
	}
	for _, m := range d.table.Members() {
		if d.table.Live(m.ID) {
			for _, a := range m.Addrs {
				known[a] = true
			}
		}
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.AddrPort) bool { return !a.IsValid() || known[a] })
	d.rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs[:min(len(addrs), asksPerRound)]
}

// meet finds out who listens at an address and gets to know it. It reports whether that was news.
func (d *Discovery) meet(ctx context.Context, addr netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	id, err := askIdentity(ctx, d.keys, addr)
	if err == nil {
		if !d.needed(id) {
			return false
		}
		err = d.hello(ctx, Member{ID: id, Addrs: []netip.AddrPort{addr}})
	}
	if err != nil {
		d.log.V(1).Info("bootstrap address leads nowhere", "address", addr.String(), "reason", err.Error())
	}
	return err == nil
}

// needed says whether somebody found by address is not known yet.
func (d *Discovery) needed(id peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return id != d.table.Self().ID && !d.table.Live(id)
}

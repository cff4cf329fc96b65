package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/ledger"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// batchDelay collects what is set one after the other.
	batchDelay = 10 * time.Millisecond
	// settleDelay collects changes of the members, each of which makes some keys move: so long must nothing change,
	// but nobody waits longer than settleMost.
	settleDelay = 150 * time.Millisecond
	settleMost  = time.Second
	// busyDelay is when to plan again after one of several batches arrived and did not hold all for its member.
	busyDelay = 100 * time.Millisecond
	// rescanEvery is how often refreshing is looked after.
	rescanEvery = 30 * time.Second
	// tick is how often the loop looks at the clock: suspects are contacted, old records swept.
	tick = 500 * time.Millisecond

	// Each may be a handshake, some milliseconds of processor time at either end. When a whole fleet starts at once,
	// more at a time would only time out together.
	maxContacts = 6
	maxSends    = 6
	// maxGoodbyes is more: these go to who is connected already, and time is short.
	maxGoodbyes = 64

	// Both may have to connect first.
	contactTimeout = 6 * time.Second
	sendTimeout    = 6 * time.Second
)

// loopState is what the loop is to do, and when. Zero times mean never.
type loopState struct {
	generation uint64
	changed    time.Time // Since when members change; zero when they do not.
	planAt     time.Time
	rescanAt   time.Time
	sweepAt    time.Time
	contacts   int
	evicted    []peer.ID
}

// Run takes part until ctx ends, then says goodbye. It runs once.
func (d *Discovery) Run(ctx context.Context) error {
	n, err := newNode(d.identity, d.keys, d.cfg.Listen, d.door)
	if err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	d.node, d.client = n, newClient(n.host)
	d.mu.Lock()
	self := d.table.Self()
	self.Addrs = n.addrs()
	d.table.SetSelf(self)
	d.mu.Unlock()
	n.host.Network().Notify(&network.NotifyBundle{ConnectedF: d.connected, DisconnectedF: d.disconnected})
	n.host.SetStreamHandler(recordsProtocol, d.serve)
	close(d.started)
	d.log.Info("discovery listens", "member", self.ID.String(), "addresses", self.Addrs)

	var children sync.WaitGroup
	children.Go(func() { d.run(ctx) })
	children.Go(func() { d.join(ctx) })
	children.Go(func() { d.relist(ctx) })
	children.Wait()
	d.tasks.Wait()
	d.goodbye()
	err = n.close()
	d.serving.Wait()
	if err != nil {
		return fmt.Errorf("discovery: close: %w", err)
	}
	return nil
}

// run does what is due until ctx ends.
func (d *Discovery) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	sends := make(chan struct{}, maxSends)
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
		timer.Reset(d.step(ctx, sends))
	}
}

// step does what is due, and says when to come back.
func (d *Discovery) step(ctx context.Context, sends chan struct{}) time.Duration {
	now := d.cfg.Now()
	d.mu.Lock()
	due := d.table.Due(now, maxContacts-d.loop.contacts)
	d.loop.contacts += len(due)
	batches, wait := d.plan(now)
	evicted := d.loop.evicted
	d.loop.evicted = nil
	d.mu.Unlock()

	for _, id := range evicted {
		d.node.dht.RoutingTable().RemovePeer(id)
	}
	for _, m := range due {
		d.tasks.Go(func() { d.contact(ctx, m) })
	}
	for _, b := range batches {
		d.tasks.Go(func() { d.send(ctx, sends, b) })
	}
	return wait
}

// plan works out what to tell whom. The caller holds the lock.
func (d *Discovery) plan(now time.Time) (batches []ledger.Batch, wait time.Duration) {
	l := &d.loop
	if g := d.table.Generation(); g != l.generation {
		l.generation = g
		if l.changed.IsZero() {
			l.changed = now
		}
		l.rescanAt = now.Add(min(settleDelay, l.changed.Add(settleMost).Sub(now)))
	}
	if l.rescanAt.IsZero() || !now.Before(l.rescanAt) {
		d.book.Rescan()
		l.planAt, l.rescanAt, l.changed = now, now.Add(rescanEvery), time.Time{}
	}
	if !l.planAt.IsZero() && !now.Before(l.planAt) {
		l.planAt = time.Time{}
		batches = d.book.Plan(now, d.table)
	}
	if !now.Before(l.sweepAt) {
		l.sweepAt = now.Add(time.Second)
		d.index.Sweep(now)
	}
	wait = min(tick, l.rescanAt.Sub(now))
	if !l.planAt.IsZero() {
		wait = min(wait, l.planAt.Sub(now))
	}
	return batches, max(wait, time.Millisecond)
}

// planIn makes the loop plan after that time at the latest. The caller holds the lock, and pokes the loop.
func (d *Discovery) planIn(delay time.Duration) {
	if at := d.cfg.Now().Add(delay); d.loop.planAt.IsZero() || d.loop.planAt.After(at) {
		d.loop.planAt = at
	}
}

// evict makes the loop take a member out of Kademlia's routing table, which keeps the dead for long. The caller
// holds the lock.
func (d *Discovery) evict(id peer.ID) {
	if len(d.loop.evicted) < d.cfg.MaxMembers {
		d.loop.evicted = append(d.loop.evicted, id)
	}
}

// send delivers one batch. Each member is sent one at a time, and only so many at once.
func (d *Discovery) send(ctx context.Context, sends chan struct{}, b ledger.Batch) {
	epoch, ok := uint64(0), false
	select {
	case sends <- struct{}{}:
		epoch, ok = d.deliver(ctx, b)
		<-sends
	case <-ctx.Done():
	}
	d.mu.Lock()
	d.book.Done(b, epoch, ok)
	switch {
	case d.book.Pending() == 0:
	case d.book.Busy() == 0:
		d.planIn(batchDelay)
	case len(b.Add)+len(b.Remove) >= wire.MaxBatch:
		d.planIn(busyDelay) // There is more for this one.
	}
	d.mu.Unlock()
	d.poke()
}

func (d *Discovery) deliver(ctx context.Context, b ledger.Batch) (epoch uint64, ok bool) {
	now := d.cfg.Now()
	d.mu.Lock()
	self := d.table.Self()
	if b.To == self.ID {
		refused := d.index.Store(now, self.ID, self.Epoch, b.Add, b.Remove)
		d.mu.Unlock()
		d.metrics.refused.Add(float64(refused))
		return self.Epoch, true
	}
	to, known := d.table.Get(b.To)
	d.mu.Unlock()
	if !known {
		return 0, false
	}
	store := &wire.Store{Self: self, Add: notAhead(b.Add, now), Remove: b.Remove}
	resp, err := d.call(ctx, to, wire.Request{Store: store}, sendTimeout)
	if err != nil {
		d.failed(ctx, to.ID, false, "announce", err)
		return 0, false
	}
	d.metrics.refused.Add(float64(resp.Refused))
	d.learn(to.ID, resp.Members)
	// The life that was known before the call: if the member was started anew meanwhile, it is told again.
	return to.Epoch, true
}

// notAhead says nothing of the future, in case that this machine's clock was set back: others end a conversation for
// it.
func notAhead(add []Entry, now time.Time) []Entry {
	ahead := func(e Entry) bool { return e.Confirmed.After(now) }
	if !slices.ContainsFunc(add, ahead) {
		return add
	}
	add = slices.Clone(add)
	for i := range add {
		if ahead(add[i]) {
			add[i].Confirmed = now
		}
	}
	return add
}

// contact says hello to a member, connecting to it where needed.
func (d *Discovery) contact(ctx context.Context, m Member) {
	defer func() {
		d.mu.Lock()
		d.loop.contacts--
		d.mu.Unlock()
		d.poke()
	}()
	if err := d.hello(ctx, m); err != nil {
		d.failed(ctx, m.ID, true, "hello", err)
	}
}

func (d *Discovery) hello(ctx context.Context, m Member) error {
	d.node.swarm.Backoff().Clear(m.ID) // Who is due is due: the table backs off by itself.
	resp, err := d.call(ctx, m, wire.Request{Hello: &wire.Hello{Self: d.Self()}}, contactTimeout)
	if err != nil {
		return err
	}
	if resp.Self == nil || resp.Self.ID != m.ID {
		err := wire.Refuse(wire.ReasonIdentity, "hello was answered in another member's name")
		d.refuse(m.ID, err)
		return err
	}
	d.heard(*resp.Self)
	d.learn(m.ID, resp.Members)
	return nil
}

// heard takes in what a member said of itself over its own connection.
func (d *Discovery) heard(m Member) bool {
	now := d.cfg.Now()
	d.mu.Lock()
	isNew := !d.table.Live(m.ID)
	believed := d.table.Heard(m, now)
	if believed {
		d.index.Seen(m.ID, m.Epoch)
		d.book.Seen(m.ID, m.Epoch)
	}
	d.mu.Unlock()
	if believed && isNew {
		d.log.V(1).Info("member is here", "member", m.ID.String(), "peerAPI", m.PeerAPI, "zone", m.Zone)
		d.poke()
	}
	return believed
}

// learn takes in what a member said of others.
func (d *Discovery) learn(teller peer.ID, ms []Member) {
	now := d.cfg.Now()
	news := false
	d.mu.Lock()
	for _, m := range ms {
		news = d.table.Learn(teller, m, now) || news
	}
	d.mu.Unlock()
	if news {
		d.poke()
	}
}

// failed notes that a member did not answer, unless it is us who gave up.
func (d *Discovery) failed(ctx context.Context, id peer.ID, contact bool, doing string, err error) {
	if ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	gone := d.table.Failed(id, contact, d.cfg.Now())
	d.evict(id)
	d.mu.Unlock()
	d.metrics.failures.Inc()
	d.log.V(1).Info("member does not answer", "member", id.String(), "doing", doing, "gone", gone, "reason", err.Error())
	if contact {
		d.hangUp(id) // The next contact takes a new connection.
	}
	d.poke()
}

// hangUp ends whatever connection there is to a member, because it leads nowhere.
func (d *Discovery) hangUp(id peer.ID) {
	if err := d.node.host.Network().ClosePeer(id); err != nil {
		d.log.V(1).Info("closing a connection failed", "member", id.String(), "reason", err.Error())
	}
}

// connected and disconnected are called by libp2p, which waits for them.
func (d *Discovery) connected(_ network.Network, c network.Conn) {
	d.mu.Lock()
	d.table.Connected(c.RemotePeer(), c.Stat().Direction == network.DirOutbound, d.cfg.Now())
	d.mu.Unlock()
	d.poke()
}

func (d *Discovery) disconnected(n network.Network, c network.Conn) {
	id := c.RemotePeer()
	if n.Connectedness(id) == network.Connected {
		return // It was one of two.
	}
	d.client.drop(id)
	d.mu.Lock()
	d.table.Disconnected(id, len(n.Peers()) >= connsLow, d.cfg.Now())
	if !d.table.Live(id) {
		d.evict(id)
	}
	d.mu.Unlock()
	d.poke()
}

// goodbye tells everybody connected that this member goes away.
func (d *Discovery) goodbye() {
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.GoodbyeTimeout)
	defer cancel()
	self := d.Self()
	slots := make(chan struct{}, maxGoodbyes)
	var calls sync.WaitGroup
	for _, id := range d.node.host.Network().Peers() {
		slots <- struct{}{} // Freed in time: every call ends with ctx.
		calls.Go(func() {
			defer func() { <-slots }()
			req := wire.Request{Goodbye: &wire.Goodbye{Epoch: self.Epoch}}
			_, err := d.call(ctx, Member{ID: id}, req, d.cfg.GoodbyeTimeout)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				d.log.V(1).Info("goodbye was not heard", "member", id.String(), "reason", err.Error())
			}
		})
	}
	calls.Wait()
}

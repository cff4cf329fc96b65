package discovery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/members"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// findTimeout is how long a member may take to answer. Most take a fraction of a millisecond.
	findTimeout = 300 * time.Millisecond
	// lookupTimeout bounds a whole search, however many members fail to answer.
	lookupTimeout = 2 * time.Second
	// routeTimeout bounds one search by Kademlia's own means.
	routeTimeout = time.Second
)

// Providers gives who holds a key, those of this member's zone first, without this member itself. Nobody is no error.
// An error means that ctx ended.
func (d *Discovery) Providers(ctx context.Context, key Key) ([]Provider, error) {
	began := time.Now()
	found, err := d.search(ctx, &wire.Find{Key: key})
	if err != nil {
		return nil, fmt.Errorf("find providers of %s: %w", key, err)
	}
	result := "hit"
	if len(found) == 0 {
		result = "miss"
	}
	d.metrics.lookups.WithLabelValues(result).Observe(time.Since(began).Seconds())
	return found, nil
}

// search asks for a key until somebody names a provider or the closest member has answered.
func (d *Discovery) search(ctx context.Context, find *wire.Find) ([]Provider, error) {
	limit, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	place := find.Key.Place()
	s := members.NewSearch(place)
	defer func() { d.metrics.redirects.Add(float64(s.Redirects())) }()
	var ids []peer.ID
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if limit.Err() != nil {
			return nil, nil
		}
		d.mu.Lock()
		ids = d.table.ClosestIDs(ids[:0], place, s.Want())
		find.Exclude = d.table.Suspects(wire.MaxExclude)
		d.mu.Unlock()
		switch step := s.Next(ids); step.Phase {
		case members.Done:
			return nil, nil
		case members.Route:
			d.route(limit, find.Key)
		case members.Ask:
			if found := d.askAll(ctx, limit, s, step.Ask, find); len(found) > 0 {
				return found, nil
			}
		}
	}
}

// askAll asks members at once, tells the search what came of it, and gives the providers that are worth a try.
func (d *Discovery) askAll(
	ctx, limit context.Context, s *members.Search, ids []peer.ID, find *wire.Find,
) (found []Provider) {
	answers := make([]wire.Response, len(ids))
	errs := make([]error, len(ids))
	if len(ids) == 1 {
		answers[0], errs[0] = d.ask(limit, ids[0], find)
	} else {
		var asking sync.WaitGroup
		for i, id := range ids {
			asking.Go(func() { answers[i], errs[i] = d.ask(limit, id, find) })
		}
		asking.Wait()
	}
	for i, id := range ids {
		if errs[i] != nil {
			s.Lost()
			d.failed(ctx, id, false, "find", errs[i])
			continue
		}
		d.learn(id, s.Answered(id, answers[i].Fresh, answers[i].Members))
		found = append(found, answers[i].Providers...)
	}
	return d.worthATry(found)
}

// worthATry leaves out this member, those that are dead by what is known here, and those named twice.
func (d *Discovery) worthATry(found []Provider) []Provider {
	if len(found) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	self := d.table.Self().ID
	seen := make(map[peer.ID]bool, len(found))
	return slices.DeleteFunc(found, func(p Provider) bool {
		id := p.Member.ID
		drop := id == self || seen[id] || d.table.Dead(id)
		seen[id] = true
		return drop
	})
}

func (d *Discovery) ask(ctx context.Context, id peer.ID, find *wire.Find) (wire.Response, error) {
	d.mu.Lock()
	self := d.table.Self()
	m, known := d.table.Get(id)
	d.mu.Unlock()
	switch {
	case id == self.ID:
		resp := d.find(self.ID, find)
		d.mu.Lock()
		defer d.mu.Unlock()
		// Asked by itself, a member knows its own zone.
		resp.Providers = d.providers(d.cfg.Now(), find.Key, self.Zone, append(slices.Clone(find.Exclude), self.ID))
		return resp, nil
	case !known:
		return wire.Response{}, fmt.Errorf("member %s went away", id)
	}
	return d.call(ctx, m, wire.Request{Find: find}, findTimeout)
}

// call sends one request and notes that the member lives.
func (d *Discovery) call(
	ctx context.Context, m Member, req wire.Request, timeout time.Duration,
) (wire.Response, error) {
	kind := kindOf(req)
	body, err := d.client.call(ctx, m, req.Encode(), timeout)
	var resp wire.Response
	if err == nil {
		resp, err = wire.DecodeResponse(body, d.cfg.Now())
	}
	if err != nil {
		if d.refuse(m.ID, err) {
			d.hangUp(m.ID)
		}
		d.metrics.requests.WithLabelValues(kind, "failed").Inc()
		return wire.Response{}, err
	}
	d.metrics.requests.WithLabelValues(kind, "ok").Inc()
	d.mu.Lock()
	d.table.Alive(m.ID, d.cfg.Now())
	d.mu.Unlock()
	return resp, nil
}

// route finds members close to a key by Kademlia's own means: slower, and not by those known here alone.
func (d *Discovery) route(ctx context.Context, key Key) {
	ctx, cancel := context.WithTimeout(ctx, routeTimeout)
	defer cancel()
	ids, err := d.node.dht.GetClosestPeers(ctx, string(key[:]))
	if err != nil {
		d.log.V(1).Info("routing found nobody", "key", key.String(), "reason", err.Error())
	}
	for _, id := range ids[:min(len(ids), redirects)] {
		d.mu.Lock()
		skip := d.table.Live(id) || d.table.Dead(id)
		d.mu.Unlock()
		if skip {
			continue
		}
		if err := d.hello(ctx, Member{ID: id}); err != nil {
			d.log.V(1).Info("member found by routing does not answer", "member", id.String(), "reason", err.Error())
		}
	}
}

package discovery

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/ledger"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// streamIdle is how long a stream may wait for the next request.
	streamIdle = 15 * time.Minute
	// requestTimeout is how long one request may take to arrive once it began, or its answer to leave.
	requestTimeout = 10 * time.Second

	// answered is how many providers one answer names: enough to choose from, whatever the fleet's size.
	answered = 20
	// redirects is how many closer members one answer names.
	redirects = 3
)

// serve answers the requests of one stream until the other side ends it.
func (d *Discovery) serve(s network.Stream) {
	d.serving.Add(1)
	defer d.serving.Done()
	from := s.Conn().RemotePeer()
	err := d.serveStream(s, from)
	if errors.Is(err, io.EOF) {
		_ = s.Close()
		return
	}
	_ = s.Reset()
	d.refuse(from, err)
}

// refuse notes that a member broke the protocol, if that is what an error says. Whoever has the key may do so as often
// as it likes: it fills no log.
func (d *Discovery) refuse(from peer.ID, err error) (broke bool) {
	reason, broke := wire.ReasonOf(err)
	if !broke {
		return false
	}
	d.metrics.refusedMessages.WithLabelValues(string(reason)).Inc()
	if d.complaints.AllowN(d.cfg.Now(), 1) {
		d.log.Info("member breaks the protocol", "member", from.String(), "reason", err.Error())
	}
	return true
}

func (d *Discovery) serveStream(s network.Stream, from peer.ID) error {
	for {
		if err := s.SetDeadline(time.Now().Add(streamIdle)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		body, err := wire.ReadMessage(s)
		if err != nil {
			return err
		}
		answer, err := d.hear(from, body)
		if err != nil {
			return err
		}
		if err := s.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		if err := wire.WriteMessage(s, answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// hear reads what a member says, and gives the answer.
func (d *Discovery) hear(from peer.ID, body []byte) ([]byte, error) {
	req, err := wire.DecodeRequest(body, d.cfg.Now())
	if err != nil {
		return nil, err
	}
	resp, err := d.answer(from, req)
	if err != nil {
		return nil, err
	}
	return resp.Encode(), nil
}

// answer does what a member asks for.
func (d *Discovery) answer(from peer.ID, req wire.Request) (wire.Response, error) {
	d.metrics.served.WithLabelValues(kindOf(req)).Inc()
	switch {
	case req.Hello != nil:
		if req.Hello.Self.ID != from {
			return wire.Response{}, wire.Refuse(wire.ReasonIdentity, "hello in another member's name")
		}
		d.heard(req.Hello.Self)
		d.mu.Lock()
		defer d.mu.Unlock()
		self := d.table.Self()
		return wire.Response{Self: &self, Members: d.table.Greeting(from)}, nil
	case req.Store != nil:
		if req.Store.Self.ID != from {
			return wire.Response{}, wire.Refuse(wire.ReasonIdentity, "records in another member's name")
		}
		return d.store(from, req.Store), nil
	case req.Find != nil:
		return d.find(from, req.Find), nil
	}
	d.mu.Lock()
	ended := d.table.Goodbye(from, req.Goodbye.Epoch, d.cfg.Now())
	if ended {
		d.index.Drop(from)
		d.evict(from)
	}
	d.mu.Unlock()
	if ended {
		d.log.V(1).Info("member said goodbye", "member", from.String())
		d.poke()
	}
	return wire.Response{}, nil
}

// store takes in what a member announces, and names those that it should have told, as far as they are known here.
func (d *Discovery) store(from peer.ID, s *wire.Store) wire.Response {
	if !d.heard(s.Self) {
		return wire.Response{Refused: len(s.Add)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	resp := wire.Response{Refused: d.index.Store(d.cfg.Now(), from, s.Self.Epoch, s.Add, s.Remove)}
	named := map[peer.ID]bool{from: true, d.table.Self().ID: true}
	var ids []peer.ID
	for i := range s.Add {
		ids = d.table.ClosestIDs(ids[:0], s.Add[i].Key.Place(), ledger.Replicas)
		for _, id := range ids {
			if !named[id] && d.table.Live(id) && len(resp.Members) < wire.MaxMembers {
				named[id] = true
				m, _ := d.table.Get(id)
				resp.Members = append(resp.Members, m)
			}
		}
	}
	return resp
}

// find answers who holds a key, and who is closer to it.
func (d *Discovery) find(from peer.ID, f *wire.Find) wire.Response {
	now := d.cfg.Now()
	exclude := append(slices.Clone(f.Exclude), from)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range f.Exclude {
		d.table.Doubt(id, now)
	}
	asker, _ := d.table.Get(from)
	return wire.Response{
		Fresh: d.table.Fresh(now), Providers: d.providers(now, f.Key, asker.Zone, exclude),
		Members: d.table.Closer(f.Key.Place(), redirects, exclude),
	}
}

// providers gives who holds a key by the records kept here, a random choice with those of the zone first: three in
// four, as the whole zone may be in trouble. The caller holds the lock.
func (d *Discovery) providers(now time.Time, key Key, zone string, exclude []peer.ID) []Provider {
	var near, far []Provider
	for _, r := range d.index.Get(now, key) {
		m, alive := d.table.Get(r.ID)
		if !alive || slices.Contains(exclude, r.ID) {
			continue
		}
		p := Provider{Member: m, Digest: r.Digest, Confirmed: r.Confirmed}
		if zone != "" && m.Zone == zone {
			near = append(near, p)
		} else {
			far = append(far, p)
		}
	}
	for _, ps := range [][]Provider{near, far} {
		d.rand.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	}
	others := min(len(far), max(answered/4, answered-len(near)))
	return append(near[:min(len(near), answered-others)], far[:others]...)
}

func kindOf(r wire.Request) string {
	switch {
	case r.Hello != nil:
		return "hello"
	case r.Store != nil:
		return "announce"
	case r.Find != nil:
		return "find"
	}
	return "goodbye"
}

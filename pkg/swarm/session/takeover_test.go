package session

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
)

// slow is a source that sends little more after a part, but some pieces a second, until it may go on.
type slow struct {
	source
	part int64
	on   chan struct{}
}

func (h *slow) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	s, err := h.source.Open(ctx, off, end)
	if err != nil {
		return nil, err
	}
	gate := readerFunc(func(p []byte) (int, error) {
		select {
		case <-h.on:
			return 0, io.EOF
		case <-time.After(50 * time.Millisecond):
			return s.Read(p[:min(len(p), 32<<10)])
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
	return &passage{io.MultiReader(io.LimitReader(s, h.part-off), gate, s), int64(len(h.body))}, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestTrackerLost has the tracker, which is a neighbour too, go away: who takes over hears at once what is
// being read, and not when the next announce would be due.
func TestTrackerLost(t *testing.T) {
	const part = 3 << 20
	body := bytes.Repeat([]byte("body"), 9<<18)
	friend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	heard := make(chan swarm.Announce, 100)
	o := &office{answer: func(a swarm.Announce) (tracker.Answer, error) {
		heard <- a
		return tracker.Answer{By: "friend", Assignment: swarm.Assignment{
			Size: a.Size, Leases: []swarm.Lease{{End: -1}}, Again: time.Minute, Neighbours: []swarm.Neighbour{{Member: "friend"}},
		}, Members: map[swarm.ID]discovery.Member{"friend": {PeerAPI: []string{friend.Addr().String()}}}}, nil
	}}
	x := newSessions(t, func(c *Config) {
		c.Announcer, c.Peers = o, newPeers(t)
		c.Patience.Stalled, c.Patience.GiveUp = time.Minute, time.Minute
	})
	g := group(t, x)
	src := &slow{source: source{body: body}, part: part, on: make(chan struct{})}
	pulled := make(chan error, 1)
	go func() { pulled <- pull(t, g, digest.FromBytes(body), src) }()

	_ = friend.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := friend.Accept() // It says nothing, so that it can't be lost before.
	if err != nil {
		t.Fatal(err)
	}
	var last swarm.Announce
	next := func(within time.Duration) bool {
		select {
		case last = <-heard:
			return true
		case <-time.After(within):
			return false
		}
	}
	for next(500 * time.Millisecond) { // All has been told, and what can arrive has.
	}
	if last.Partners != 1 {
		t.Errorf("it has %d partners", last.Partners)
	}
	conn.Close()
	if !next(announceEvery * 3) {
		t.Error("nobody is told that the tracker is gone")
	} else if len(last.Reading) != 1 || last.Reading[0].Start < part || last.Reading[0].End != -1 || last.Partners != 0 {
		t.Errorf("who takes over is told that %v is being read, and of %d partners", last.Reading, last.Partners)
	}
	close(src.on)
	for {
		select {
		case <-heard:
		case err := <-pulled:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}

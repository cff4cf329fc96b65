package discovery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// callsPerMember is how many requests may be with one member at once; more wait for their turn.
	callsPerMember = 16
	// idlePerMember is how many streams are kept open for the next request. Opening one costs as much as a request.
	idlePerMember = 2
)

// client sends requests. A stream carries one request at a time, and is kept for the next. Safe for concurrent use.
type client struct {
	host host.Host

	mu    sync.Mutex
	lanes map[peer.ID]*lane // For connected members, so as many as there are connections.
}

// lane is the way to one member.
type lane struct {
	slots chan struct{}
	idle  []network.Stream // Guarded by client.mu.
}

func newClient(h host.Host) *client { return &client{host: h, lanes: map[peer.ID]*lane{}} }

// call sends one request and gives the answer within that time.
func (c *client) call(ctx context.Context, m Member, body []byte, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	l := c.lane(m.ID)
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other requests to %s: %w", m.ID, ctx.Err())
	}
	if s := c.take(l); s != nil {
		if answer, err := exchange(ctx, s, body); err == nil {
			c.keep(m.ID, l, s)
			return answer, nil
		} else if ctx.Err() != nil {
			return nil, fmt.Errorf("ask %s: %w", m.ID, err)
		}
		// The stream had ended while it was idle. Requests may be repeated.
	}
	if c.host.Network().Connectedness(m.ID) != network.Connected {
		if err := c.host.Connect(ctx, addrInfo(m)); err != nil {
			c.drop(m.ID) // There is no connection whose end would do it.
			return nil, fmt.Errorf("connect to %s: %w", m.ID, err)
		}
	}
	s, err := c.host.NewStream(ctx, m.ID, recordsProtocol)
	if err != nil {
		return nil, fmt.Errorf("open a stream to %s: %w", m.ID, err)
	}
	answer, err := exchange(ctx, s, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", m.ID, err)
	}
	c.keep(m.ID, l, s)
	return answer, nil
}

// exchange sends and receives one message each. When it fails, the stream is of no use any more.
func exchange(ctx context.Context, s network.Stream, body []byte) (answer []byte, err error) {
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	if err = wire.WriteMessage(s, body); err == nil {
		answer, err = wire.ReadMessage(s)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		_ = s.Reset()
		return nil, err
	}
	return answer, nil
}

func (c *client) lane(id peer.ID) *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.lanes[id]
	if !ok {
		l = &lane{slots: make(chan struct{}, callsPerMember)}
		c.lanes[id] = l
	}
	return l
}

func (c *client) take(l *lane) network.Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(l.idle)
	if n == 0 {
		return nil
	}
	s := l.idle[n-1]
	l.idle = l.idle[:n-1]
	return s
}

func (c *client) keep(id peer.ID, l *lane, s network.Stream) {
	c.mu.Lock()
	kept := c.lanes[id] == l && len(l.idle) < idlePerMember
	if kept {
		l.idle = append(l.idle, s)
	}
	c.mu.Unlock()
	if !kept {
		_ = s.Close()
	}
}

// drop forgets the way to a member whose last connection is gone; its streams went with it.
func (c *client) drop(id peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lanes, id)
}

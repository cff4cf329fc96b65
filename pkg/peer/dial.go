package peer

import (
	"context"
	"net"
	"time"
)

// stagger is how long one address of a member may take to connect before the next one is tried as well (RFC 8305,
// section 5, has 250 ms for the whole internet; members are near).
const stagger = 100 * time.Millisecond

// dialer connects to a member by whichever of its addresses answers first, the preferred ones with a head start.
type dialer struct{ net net.Dialer }

type addressesKey struct{}

// others tells the dialer of all of a member's addresses, by the only way through an http.Client.
func (d *dialer) others(ctx context.Context, addrs []string) context.Context {
	if len(addrs) == 1 {
		return ctx
	}
	return context.WithValue(ctx, addressesKey{}, addrs)
}

// dial is http.Transport's DialContext.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	addrs, _ := ctx.Value(addressesKey{}).([]string)
	if len(addrs) == 0 {
		return d.net.DialContext(ctx, network, addr)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	var (
		started, ended int
		won            net.Conn
		last           error
	)
	for ended < started || won == nil && started < len(addrs) {
		var due <-chan time.Time
		if won == nil && started < len(addrs) {
			due = next.C
		}
		select {
		case <-due:
			to := addrs[started]
			started++
			go func() {
				conn, err := d.net.DialContext(ctx, network, to)
				results <- result{conn, err}
			}()
			next.Reset(stagger)
		case r := <-results:
			ended++
			switch {
			case r.err != nil:
				last = r.err
				next.Reset(0)
			case won != nil:
				r.conn.Close() // Nothing was said on it.
			default:
				won = r.conn
				cancel()
			}
		}
	}
	if won == nil {
		return nil, last
	}
	return won, nil
}

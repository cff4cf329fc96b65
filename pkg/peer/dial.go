package peer

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/kioo-dev/kioo/pkg/hedge"
)

// stagger is how long one address of a member may take to connect before the next one is tried as well (RFC 8305,
// section 5, has 250 ms for the whole internet; members are near).
const stagger = 100 * time.Millisecond

// dialer connects to a member by whichever of its addresses answers first, the preferred ones with a head start.
type dialer struct {
	net net.Dialer
	tls *tls.Config
}

type addressesKey struct{}

// others tells the dialer of all of a member's addresses, by the only way through an http.Client.
func (d *dialer) others(ctx context.Context, addrs []string) context.Context {
	if len(addrs) == 1 {
		return ctx
	}
	return context.WithValue(ctx, addressesKey{}, addrs)
}

// secure is http.Transport's DialTLSContext: it connects, and resumes the last session with that member, if any.
func (d *dialer) secure(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg := d.tls.Clone()
	cfg.ClientSessionCache = sessions{d.tls.ClientSessionCache, addr}
	ctx, cancel := context.WithTimeout(ctx, d.net.Timeout)
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// sessions are those with one member. A tls.Config would know them by the name in the certificate, which is the same
// for all.
type sessions struct {
	all  tls.ClientSessionCache
	with string
}

// Get implements tls.ClientSessionCache.
func (s sessions) Get(key string) (*tls.ClientSessionState, bool) {
	return s.all.Get(s.with + " " + key)
}

// Put implements tls.ClientSessionCache.
func (s sessions) Put(key string, state *tls.ClientSessionState) { s.all.Put(s.with+" "+key, state) }

// dial connects to the address, or to any of the member's.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	addrs, _ := ctx.Value(addressesKey{}).([]string)
	if len(addrs) == 0 {
		return d.net.DialContext(ctx, network, addr)
	}
	won, err := hedge.Race[net.Conn]{
		Targets: len(addrs), After: stagger,
		Ask:     func(ctx context.Context, i int) (net.Conn, error) { return d.net.DialContext(ctx, network, addrs[i]) },
		Discard: func(conn net.Conn) { conn.Close() }, // Nothing was said on it.
	}.Run(ctx)
	if err != nil {
		return nil, err
	}
	won.Cancel() // A connection does not live on the context that it was made with.
	return won.Value, nil
}

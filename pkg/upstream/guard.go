package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/kioo-dev/kioo/pkg/reach"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// known gives a registry's state if there is any.
func (c *Client) known(repo reference.Repository) (*registry, bool) {
	c.making.Lock()
	defer c.making.Unlock()
	return c.registries.Peek(registryKey{repo.Registry, c.cfg.Registries(repo).Name})
}

// guard keeps an endpoint, and what it redirects to, from leading further into this node's network than it should.
func (c *Client) guard(ep *endpoint, e Endpoint) {
	ep.redirects, ep.trusted = ep.away, ep.away
	if c.cfg.roundTripper != nil {
		return
	}
	watched := &watched{inner: ep.direct, proxied: c.proxied}
	if e.Unlisted {
		most := reach.Private
		if reference.IsLoopback(ep.url.Host) { // Only names that say so have this machine as their registry.
			most = reach.Loopback
		}
		watched.inner = &guarded{client: c, files: e.tls(), plain: ep.direct, most: func() reach.Reach { return most }}
	}
	ep.direct = watched
	loopback := func() reach.Reach { return reach.Loopback }
	ep.trusted = &guarded{client: c, files: tlsFiles{ca: e.CAFile}, plain: ep.away, most: loopback}
	ep.redirects = &guarded{client: c, files: tlsFiles{ca: e.CAFile}, plain: ep.away, most: watched.reach}
}

// proxied tells whether a request goes through a proxy, which then resolves names and has rules of its own.
func (c *Client) proxied(req *http.Request) bool {
	proxy, err := c.cfg.Proxy(req)
	return err == nil && proxy != nil
}

// watched notes how far in an endpoint is.
type watched struct {
	inner   http.RoundTripper
	proxied func(*http.Request) bool
	found   atomic.Int32
}

// reach is how far in the endpoint's last connection went. Behind a proxy nobody knows, so it counts as public.
func (w *watched) reach() reach.Reach { return reach.Reach(w.found.Load()) }

// RoundTrip implements http.RoundTripper.
func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.proxied(req) {
		w.found.Store(int32(reach.Public))
		return w.inner.RoundTrip(req)
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if addr, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil {
			w.found.Store(int32(min(reach.Of(addr.Addr()), reach.Loopback)))
		}
	}}
	return w.inner.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

// guarded sends requests over connections that go only so far in.
type guarded struct {
	client *Client
	files  tlsFiles
	plain  http.RoundTripper
	most   func() reach.Reach
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	most := g.most()
	if g.client.proxied(req) {
		if addr, err := netip.ParseAddr(strings.Trim(req.URL.Hostname(), "[]")); err == nil {
			if err := reach.Check(addr, most, g.client.cfg.Networks); err != nil {
				return nil, refusedAddress{err}
			}
		}
		return g.plain.RoundTrip(req)
	}
	rt, err := g.client.transports.within(g.files, most)
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if errors.Is(err, reach.ErrRefused) {
		return nil, refusedAddress{err}
	}
	return resp, err
}

// refusedAddress is a failure that asking again does not mend. Its text names no address: who asks need not know what
// there is inside.
type refusedAddress struct{ err error }

func (refusedAddress) Error() string {
	return "leads into a network where it has no business (see upstream.networks)"
}

func (r refusedAddress) Unwrap() error { return r.err }

// guardedKey is what connections of limited reach are shared by.
type guardedKey struct {
	tlsFiles
	most reach.Reach
}

// within gives connections that go only so far in. They are never shared with others: a connection that was made for
// somebody who may go further must not serve who may not.
func (t *transports) within(files tlsFiles, most reach.Reach) (http.RoundTripper, error) {
	inner, err := t.get(files)
	if err != nil {
		return nil, err
	}
	tr, ok := inner.(*http.Transport)
	if !ok {
		return inner, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := guardedKey{files, most}
	if limited, ok := t.limited.Get(key); ok {
		return limited, nil
	}
	limited := tr.Clone()
	dialer := &net.Dialer{Timeout: t.cfg.Timeouts.Connect, Control: reach.Control(most, t.cfg.Networks)}
	limited.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}
	t.limited.Add(key, limited)
	return limited, nil
}

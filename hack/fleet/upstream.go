package fleet

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/kioo-dev/kioo/hack/registrytest"
)

// upstreamPort is a registry's usual one, and tokenPort that of its token server.
const (
	upstreamPort = 5000
	tokenPort    = 5001
)

// Upstream is a real registry in a place of its own. It is safe for concurrent use.
//
// The registry itself listens on the machine's loopback, where fixtures are pushed to and where no link slows that
// down. What the nodes see is its counting proxy, which listens in the place.
type Upstream struct {
	*registrytest.Registry
	*Place

	inPlace *registrytest.Switch
	tokens  *registrytest.Switch // Nil without a token server.
}

// evenOut has all connections queue packets of about the same size. The link is shaped where the registry sends. There
// Linux lets a connection queue two packets at a time, whose size follows its pace (TCP small queues). So one that came
// while the link was free sent 22 segments to the others' two, and kept three quarters of the link for good, where
// losses in a router would have evened that out. Kernels without the setting stay as they are.
const evenOut = "f=/proc/sys/net/ipv4/tcp_min_tso_segs; [ ! -e $f ] || echo 8 >$f"

func newUpstream(ctx context.Context, n *network, link Link, cfg registrytest.Config) (*Upstream, error) {
	place, err := n.attach(ctx, "upstream", upstreamAddr(), link)
	if err != nil {
		return nil, fmt.Errorf("place for upstream: %w", err)
	}
	if _, err := place.Output(ctx, "sh", "-c", evenOut); err != nil {
		return nil, fmt.Errorf("have upstream's connections share its link: %w", err)
	}
	tokens := netip.AddrPortFrom(place.Addr, tokenPort).String()
	if cfg.Auth == registrytest.AuthToken {
		cfg.Realm = "http://" + tokens + "/token"
	}
	registry, err := registrytest.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	u := &Upstream{Registry: registry, Place: place}
	u.inPlace = registrytest.NewSwitch(registry, func() (net.Listener, error) { return u.Listen(u.Host()) })
	if handler := registry.TokenServer(); handler != nil {
		u.tokens = registrytest.NewSwitch(handler, func() (net.Listener, error) { return u.Listen(tokens) })
	}
	if err := u.Resume(); err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// Host is the registry's name and address for the nodes.
func (u *Upstream) Host() string { return netip.AddrPortFrom(u.Addr, upstreamPort).String() }

// URL is the same as a URL.
func (u *Upstream) URL() string { return "http://" + u.Host() }

// Image is an image's full name: that of the registry before "org/app:v1".
func (u *Upstream) Image(name string) string { return u.Host() + "/" + name }

// Stop refuses connections and cuts those that are open, as a registry that is down. Black is the other way to lose it.
// Its token server goes with it.
func (u *Upstream) Stop() {
	u.inPlace.Stop()
	if u.tokens != nil {
		u.tokens.Stop()
	}
}

// Resume ends a Stop.
func (u *Upstream) Resume() error {
	if u.tokens != nil {
		if err := u.tokens.Resume(); err != nil {
			return err
		}
	}
	return u.inPlace.Resume()
}

// Close ends the registry. The fleet does it.
func (u *Upstream) Close() {
	u.Stop()
	u.Registry.Close()
}

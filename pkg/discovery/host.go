package discovery

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/door"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	yamuxtransport "github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/libp2p/go-yamux/v5"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// protocolPrefix begins the names of all our protocols, so that no other DHT's members are taken for ours.
	protocolPrefix = protocol.ID("/kioo")
	// recordsProtocol is the protocol of package wire.
	recordsProtocol = protocolPrefix + "/records/1"

	// Up to connsLow members a fleet is a full mesh. Beyond, connections are trimmed down to connsLow whenever there
	// are more than connsHigh: each costs some 53 KB at either end.
	connsLow, connsHigh = 500, 600

	// maxConns is for a moment when everybody connects at once.
	maxConns = 4 * connsHigh
	// maxConnsPerMember is more than two members need that dial each other at the same moment, by several addresses.
	maxConnsPerMember = 8
	// streamsPerPeer bounds how many streams one member may open, of ours and of Kademlia's.
	streamsPerPeer = 128

	// On a cluster's own network a connection takes milliseconds; this leaves room for one lost packet, and tells soon
	// who is not there.
	connectTimeout = time.Second
	// Who accepted is there, but its handshake may have to wait for a processor.
	dialTimeout = 4 * time.Second
)

// dialBackOff is set once for all hosts of the process: libp2p keeps it in variables that hosts read as they run.
// Its own values, 5 s to 5 min, are for the internet; a restarted node must not be shunned for minutes.
var dialBackOff sync.Once

// node is a libp2p host with Kademlia routing.
type node struct {
	host  *basichost.BasicHost
	swarm *swarm.Swarm
	dht   *dht.IpfsDHT
}

// newNode assembles a host from its parts and starts it. libp2p's own constructor links QUIC, WebRTC and more, some
// 9 MB, whatever its options.
func newNode(
	priv crypto.PrivKey, keys []security, listen []netip.AddrPort, door *door.Door,
) (_ *node, err error) {
	dialBackOff.Do(func() { swarm.BackoffBase, swarm.BackoffMax = time.Second, 15*time.Second })
	id, err := peer.IDFromPrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	var undo []func() error
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				err = errors.Join(err, f())
			}
		}
	}()
	store, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, fmt.Errorf("peer store: %w", err)
	}
	undo = append(undo, store.Close)
	if err := errors.Join(store.AddPrivKey(id, priv), store.AddPubKey(id, priv.GetPublic())); err != nil {
		return nil, fmt.Errorf("peer store: %w", err)
	}
	limits, err := newLimits()
	if err != nil {
		return nil, err
	}
	undo = append(undo, limits.Close)
	bus := eventbus.NewBus()
	net, err := newSwarm(id, store, bus, limits, keys, door)
	if err != nil {
		return nil, err
	}
	undo = append(undo, net.Close)
	conns, err := connmgr.NewConnManager(connsLow, connsHigh, connmgr.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, fmt.Errorf("connection manager: %w", err)
	}
	undo = append(undo, conns.Close)
	host, err := basichost.NewHost(net, &basichost.HostOpts{
		EventBus: bus, ConnManager: conns, UserAgent: "kioo", NegotiationTimeout: 5 * time.Second,
		AddrsFactory: advertiseOnly(listen), DisableSignedPeerRecord: true,
	})
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	undo = []func() error{host.Close} // It closes all the others.
	if err := net.Listen(multiaddrs(listen)...); err != nil {
		return nil, fmt.Errorf("listen on %v: %w", listen, err)
	}
	host.Start()
	routing, err := newRouting(host)
	if err != nil {
		return nil, err
	}
	return &node{host: host, swarm: net, dht: routing}, nil
}

// newRouting starts Kademlia without its records.
func newRouting(h *basichost.BasicHost) (*dht.IpfsDHT, error) {
	d, err := dht.New(h, dht.Mode(dht.ModeServer), dht.ProtocolPrefix(protocolPrefix),
		dht.DisableValues(), dht.DisableProviders(), dht.BucketSize(20), dht.Concurrency(10), dht.Resiliency(3),
		dht.RoutingTableRefreshPeriod(3*time.Minute))
	if err != nil {
		return nil, fmt.Errorf("routing: %w", err)
	}
	return d, nil
}

func (n *node) close() error { return errors.Join(n.dht.Close(), n.host.Close()) }

// addrs gives what the host listens on.
func (n *node) addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, m := range n.host.Addrs() {
		if a, err := manet.ToNetAddr(m); err == nil {
			if ap, err := netip.ParseAddrPort(a.String()); err == nil {
				out = append(out, ap)
			}
		}
	}
	return out
}

func newSwarm(
	id peer.ID, store peerstore.Peerstore, bus event.Bus, limits network.ResourceManager, keys []security,
	door *door.Door,
) (*swarm.Swarm, error) {
	s, err := swarm.NewSwarm(id, store, bus, swarm.WithResourceManager(limits),
		swarm.WithDialTimeout(dialTimeout), swarm.WithDialTimeoutLocal(dialTimeout),
		swarm.WithUDPBlackHoleSuccessCounter(nil), swarm.WithIPv6BlackHoleSuccessCounter(nil))
	if err != nil {
		return nil, fmt.Errorf("swarm: %w", err)
	}
	var handshakes []sec.SecureTransport
	for _, k := range keys {
		handshakes = append(handshakes, k.joins, k.asks)
	}
	muxers := []upgrader.StreamMuxer{{ID: yamuxtransport.ID, Muxer: newMuxer()}}
	up, err := upgrader.New(handshakes, muxers, nil, limits, nil, upgrader.WithAcceptTimeout(handshakeTimeout))
	if err == nil {
		// Without DisableReuseport an old and a new process on the host's network could share the port.
		var t *tcp.TcpTransport
		t, err = tcp.NewTCPTransport(&doorman{Upgrader: up, door: door}, limits, nil, tcp.DisableReuseport(), tcp.WithConnectionTimeout(connectTimeout))
		if err == nil {
			err = s.AddTransport(t)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("transport: %w", err), s.Close())
	}
	return s, nil
}

// newMuxer configures yamux as libp2p does, but notices a silent member in 25 s instead of 40 s.
func newMuxer() *yamuxtransport.Transport {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval = 15 * time.Second
	c.LogOutput = io.Discard // It writes plain lines; what matters comes back as errors.
	c.ReadBufSize = 0        // The handshake's connection has a buffer already.
	c.MaxIncomingStreams = math.MaxUint32
	c.MaxStreamWindowSize = 1 << 20
	return (*yamuxtransport.Transport)(c)
}

// newLimits replaces libp2p's limits, which scale with the machine's memory and allow eight connections per IPv6
// /56: a whole cluster has one. Those on inbound connections are the door's, and leave room for it: libp2p refuses the
// new one where there are too many, so that whoever came first would keep the others out.
func newLimits() (network.ResourceManager, error) {
	const (
		// Those that the door closed are counted here a little longer, until their handshakes have noticed.
		unproven = 2 * (maxStrangers + maxListed)
		inbound  = maxConns + unproven
	)
	counts := rcmgr.ResourceLimits{
		Conns: inbound + maxConns, ConnsInbound: inbound, ConnsOutbound: maxConns, FD: inbound + maxConns,
		Streams: maxConns * 16, StreamsInbound: maxConns * 8, StreamsOutbound: maxConns * 8,
	}
	each := rcmgr.ResourceLimits{
		Conns: maxConnsPerMember, ConnsInbound: maxConnsPerMember, ConnsOutbound: maxConnsPerMember, FD: maxConnsPerMember,
		Streams: 2 * streamsPerPeer, StreamsInbound: streamsPerPeer, StreamsOutbound: streamsPerPeer,
	}
	limits := rcmgr.PartialLimitConfig{
		System: counts, PeerDefault: each,
		// Connections before their handshake is over.
		Transient: rcmgr.ResourceLimits{
			Conns: unproven + maxConns, ConnsInbound: unproven, ConnsOutbound: maxConns, FD: unproven + maxConns,
		},
	}.Build(rcmgr.InfiniteLimits)
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{}, []rcmgr.ConnLimitPerSubnet{}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}), rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, fmt.Errorf("resource limits: %w", err)
	}
	return m, nil
}

// advertiseOnly keeps any address but the configured ones from being advertised.
func advertiseOnly(listen []netip.AddrPort) func([]ma.Multiaddr) []ma.Multiaddr {
	return func(addrs []ma.Multiaddr) []ma.Multiaddr {
		return slices.DeleteFunc(slices.Clone(addrs), func(m ma.Multiaddr) bool {
			ip, err := manet.ToIP(m)
			if err != nil {
				return true
			}
			addr, _ := netip.AddrFromSlice(ip)
			return !slices.ContainsFunc(listen, func(l netip.AddrPort) bool { return l.Addr() == addr.Unmap() })
		})
	}
}

func multiaddrs(list []netip.AddrPort) []ma.Multiaddr {
	addrs := make([]ma.Multiaddr, len(list))
	for i, a := range list {
		addrs[i] = multiaddr(a)
	}
	return addrs
}

func multiaddr(a netip.AddrPort) ma.Multiaddr {
	family := "ip4"
	if a.Addr().Is6() {
		family = "ip6"
	}
	return ma.StringCast(fmt.Sprintf("/%s/%s/tcp/%d", family, a.Addr(), a.Port()))
}

func addrInfo(m Member) peer.AddrInfo {
	info := peer.AddrInfo{ID: m.ID}
	for _, a := range m.Addrs {
		info.Addrs = append(info.Addrs, multiaddr(netip.AddrPortFrom(a.Addr().Unmap(), a.Port())))
	}
	return info
}

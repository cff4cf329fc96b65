package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multihash"
)

const (
	kadLookup  = 10 * time.Second
	kadAtOnce  = 16 // Keys announced at once, in the whole process.
	kadSettles = time.Minute
)

// kadMember is a member whose records are kad-dht's.
type kadMember struct {
	host host.Host
	dht  *dht.IpfsDHT
}

func (m *kadMember) close() error { return errors.Join(m.dht.Close(), m.host.Close()) }

func kadKey(node, i int) (cid.Cid, error) {
	sum, err := multihash.Sum([]byte(keyName(node, i)), multihash.SHA2_256, -1)
	if err != nil {
		return cid.Undef, fmt.Errorf("hash key: %w", err)
	}
	return cid.NewCidV1(cid.Raw, sum), nil
}

func startKad(served *atomic.Int64) (*kadMember, error) {
	h, err := libp2p.New(libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.ForceReachabilityPublic(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	d, err := dht.New(h, dht.Mode(dht.ModeServer), dht.ProtocolPrefix("/bench"), dht.DisableValues(),
		dht.OnRequestHook(func(context.Context, network.Stream, *pb.Message) { served.Add(1) }))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("routing: %w", err), h.Close())
	}
	return &kadMember{host: h, dht: d}, nil
}

// startKadFleet starts members and connects all of them, so that only the records are compared.
func startKadFleet(ctx context.Context, n int, served *atomic.Int64) (members []*kadMember, err error) {
	for range n {
		m, err := startKad(served)
		if err != nil {
			return members, err
		}
		members = append(members, m)
		for _, o := range members[:len(members)-1] {
			if err := m.host.Connect(ctx, peer.AddrInfo{ID: o.host.ID(), Addrs: o.host.Addrs()}); err != nil {
				return members, fmt.Errorf("connect: %w", err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, kadSettles)
	defer cancel()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	want := min(n-1, 20)
	for slices.ContainsFunc(members, func(m *kadMember) bool { return m.dht.RoutingTable().Size() < want }) {
		select {
		case <-ctx.Done():
			return members, fmt.Errorf("routing tables do not fill: %w", ctx.Err())
		case <-poll.C:
		}
	}
	return members, nil
}

func compareKad(ctx context.Context, o options) (fig figures, err error) {
	var served atomic.Int64
	members, err := startKadFleet(ctx, o.nodes, &served)
	defer func() {
		for _, m := range members {
			err = errors.Join(err, m.close())
		}
	}()
	if err != nil {
		return fig, err
	}
	before := served.Load()
	began, cpu := time.Now(), cpuTime()
	if err := parallel(o.nodes*o.keys, kadAtOnce, func(i int) error {
		c, err := kadKey(i%o.nodes, i/o.nodes)
		if err != nil {
			return err
		}
		return members[i%o.nodes].dht.Provide(ctx, c, true)
	}); err != nil {
		return fig, fmt.Errorf("provide: %w", err)
	}
	fig.announced, fig.messages = time.Since(began), float64(served.Load()-before)/float64(o.nodes)
	fig.cpu = (cpuTime() - cpu) / time.Duration(o.nodes)
	look := func(from, holder, i int) bool {
		c, err := kadKey(holder, i)
		if err != nil {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, kadLookup)
		defer cancel()
		_, found := <-members[from].dht.FindProvidersAsync(ctx, c, 1)
		return found
	}
	found := 0
	fig.hits, found = sample(o.lookups, o.nodes, o.keys, false, look)
	fig.miss, _ = sample(o.lookups, o.nodes, o.keys, true, look)
	fig.lost = o.lookups - found
	return fig, nil
}

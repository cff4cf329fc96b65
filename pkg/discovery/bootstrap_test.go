package discovery

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// names is a Resolver that knows a few names.
type names struct {
	ips map[string][]netip.Addr
	srv map[string][]*net.SRV
}

var errNoName = errors.New("no such name")

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if ips, ok := n.ips[host]; ok {
		return ips, nil
	}
	return nil, errNoName
}

func (n names) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	if srv, ok := n.srv[name]; ok {
		return name, srv, nil
	}
	return "", nil, errNoName
}

func TestBootstrappers(t *testing.T) {
	dns := names{
		ips: map[string][]netip.Addr{
			"kioo":   {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.2")},
			"node-1": {netip.MustParseAddr("10.0.0.9")},
		},
		srv: map[string][]*net.SRV{
			"_dht._tcp.kioo": {{Target: "node-1", Port: 7}, {Target: "gone", Port: 7}},
			"_dht._tcp.gone": {{Target: "gone", Port: 7}},
		},
	}
	for name, test := range map[string]struct {
		from Bootstrapper
		want []string
		err  error
	}{
		"static": {from: Static{netip.MustParseAddrPort("10.0.0.1:1")}, want: []string{"10.0.0.1:1"}},
		"addresses": {
			from: DNS{Name: "kioo", Port: 5, Resolver: dns}, want: []string{"10.0.0.1:5", "[fd00::1]:5", "10.0.0.2:5"},
		},
		"services":        {from: DNS{Name: "_dht._tcp.kioo", Resolver: dns}, want: []string{"10.0.0.9:7"}},
		"unknown name":    {from: DNS{Name: "gone", Port: 5, Resolver: dns}, err: errNoName},
		"unknown service": {from: DNS{Name: "_dht._tcp.none", Resolver: dns}, err: errNoName},
		"targets gone":    {from: DNS{Name: "_dht._tcp.gone", Resolver: dns}, err: errNoName},
		"one of two fails": {
			from: Combined{DNS{Name: "gone", Port: 5, Resolver: dns}, Static{netip.MustParseAddrPort("10.0.0.1:1")}},
			want: []string{"10.0.0.1:1"},
		},
		"both fail": {
			from: Combined{DNS{Name: "gone", Port: 5, Resolver: dns}, DNS{Name: "gone", Resolver: dns}}, err: errNoName,
		},
		"none": {from: Combined{}},
	} {
		t.Run(name, func(t *testing.T) {
			addrs, err := test.from.Peers(t.Context())
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			if !errors.Is(err, test.err) || !slices.Equal(got, test.want) {
				t.Errorf("got %v, %v; want %v, %v", got, err, test.want, test.err)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Keys: [][]byte{clusterKey(1)}, Listen: loopback()}
	for name, change := range map[string]func(*Config){
		"no key":               func(c *Config) { c.Keys = nil },
		"short key":            func(c *Config) { c.Keys = [][]byte{make([]byte, 31)} },
		"same key twice":       func(c *Config) { c.Keys = [][]byte{clusterKey(1), clusterKey(1)} },
		"nowhere to listen":    func(c *Config) { c.Listen = nil },
		"listen everywhere":    func(c *Config) { c.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:1")} },
		"listen on a zone":     func(c *Config) { c.Listen = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%lo]:1")} },
		"peer API has no port": func(c *Config) { c.PeerAPI = []string{"10.0.0.1"} },
		"negative bound":       func(c *Config) { c.MaxRecords = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

// Package reach tells how far into a network an address is, and so whom strangers may make this node call.
//
// It knows addresses alone: names are judged by what they resolve to, when that is dialled, by a Control function.
package reach

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// ErrRefused says that an address may not be dialled.
var ErrRefused = errors.New("not to be called on behalf of strangers")

// Reach is how far into a network an address is. Who is asked on behalf of strangers may lead only as far in as it is
// itself.
type Reach int

const (
	// Public addresses are for everybody.
	Public Reach = iota
	// Private addresses are for one network: RFC 1918 and 4193, and those that carriers share.
	Private
	// Loopback addresses are for one machine.
	Loopback
	// Forbidden addresses are for nobody: link-local, where clouds have their metadata, multicast, and what names no
	// host.
	Forbidden
)

func (r Reach) String() string {
	return [...]string{"public", "private", "loopback", "link-local or special"}[r]
}

// privateNetworks are those beside what netip knows: shared by carriers, benchmarks, protocols, documentation, and
// site-local.
var privateNetworks = prefixes("100.64.0.0/10", "198.18.0.0/15", "192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24",
	"203.0.113.0/24", "192.88.99.0/24", "240.0.0.0/4", "fec0::/10", "2001::/23", "2001:db8::/32", "100::/64")

// embedding are networks of IPv6 whose addresses lead to one of IPv4, and where that is in them: NAT64, its local
// prefix, 6to4, and what was once compatible.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("64:ff9b:1::/48"), 12},
	{netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12},
}

// teredo hides the address of IPv4 by flipping its bits, and says nothing that can be believed.
var teredo = netip.MustParsePrefix("2001::/32")

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range all {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// Of tells how far in an address is.
func Of(addr netip.Addr) Reach {
	addr = addr.Unmap().WithZone("")
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsMulticast(), addr.IsLinkLocalUnicast(),
		addr.Is4() && addr.As4()[0] == 0, addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		addr == netip.MustParseAddr("fd00:ec2::254"), teredo.Contains(addr): // The second but last is EC2's metadata.
		return Forbidden
	case addr.IsLoopback():
		return Loopback
	case addr.IsPrivate(), slices.ContainsFunc(privateNetworks, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return Private
	}
	for _, e := range embedding {
		if raw := addr.As16(); addr.Is6() && e.prefix.Contains(addr) {
			return Of(netip.AddrFrom4([4]byte(raw[e.at : e.at+4])))
		}
	}
	return Public
}

// Check says why an address may not be dialled by somebody who may go as far in as most, or into networks.
func Check(addr netip.Addr, most Reach, networks []netip.Prefix) error {
	plain := addr.Unmap().WithZone("")
	if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(plain) }) {
		return nil
	}
	if r := Of(addr); r > most {
		return fmt.Errorf("address %s is %s: %w", addr, r, ErrRefused)
	}
	return nil
}

// Control gives a net.Dialer's Control that refuses what Check refuses. It sees the address after resolution, so that
// no name can lead elsewhere than it was judged by.
func Control(most Reach, networks []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("address %q can't be judged: %w", address, ErrRefused)
		}
		return Check(addr.Addr(), most, networks)
	}
}

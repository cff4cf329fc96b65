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
	// Forbidden addresses are for nobody: those at which clouds tell a machine who it is, give it credentials and run
	// it; link-local ones, multicast, and what names no host. Only an operator who writes that very address means it.
	Forbidden
)

func (r Reach) String() string {
	return [...]string{"public", "private", "loopback", "link-local, a cloud's own or special"}[r]
}

// networks are those that are not public, with what says so. The first that has an address holds, so what is special
// within a network stands before it.
var networks = []struct {
	prefix netip.Prefix
	reach  Reach
}{
	// Clouds' own. Those that are link-local, as nearly all are, have no row of their own: AWS with ECS and EKS
	// (169.254.169.254, .253, .123, 169.254.170.2, .23), Google, Azure, Oracle, DigitalOcean, Hetzner, OpenStack, IBM.
	{netip.MustParsePrefix("168.63.129.16/32"), Forbidden},       // Azure's WireServer: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
	{netip.MustParsePrefix("fd00:ec2::/32"), Forbidden},          // AWS: ::254 metadata, ::253 DNS, ::123 time, ::23 EKS pod identity: https://docs.aws.amazon.com/whitepapers/latest/ipv6-on-aws/supporting-amazon-vpc-services.html
	{netip.MustParsePrefix("fd20:ce::254/128"), Forbidden},       // Google's metadata: https://cloud.google.com/compute/docs/metadata/querying-metadata
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), Forbidden}, // Oracle's metadata: https://docs.oracle.com/iaas/Content/Compute/Tasks/gettingmetadata.htm
	{netip.MustParsePrefix("fd00:42::42/128"), Forbidden},        // Scaleway's metadata: https://www.scaleway.com/en/docs/instances
	{netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), Forbidden},  // Akamai's metadata: https://techdocs.akamai.com/cloud-computing/docs/metadata-service-api
	{netip.MustParsePrefix("100.100.100.200/32"), Forbidden},     // Alibaba's metadata: https://www.alibabacloud.com/help/ecs/user-guide/view-instance-metadata
	{netip.MustParsePrefix("192.0.0.0/24"), Forbidden},           // Protocols, among them 192.0.0.192, metadata of Oracle's classic cloud: RFC 6890, section 2.2.2

	{netip.MustParsePrefix("169.254.0.0/16"), Forbidden},     // Link-local: RFC 3927
	{netip.MustParsePrefix("fe80::/10"), Forbidden},          // Link-local: RFC 4291, section 2.5.6
	{netip.MustParsePrefix("0.0.0.0/8"), Forbidden},          // This network: RFC 1122, section 3.2.1.3
	{netip.MustParsePrefix("::/128"), Forbidden},             // Unspecified: RFC 4291, section 2.5.2
	{netip.MustParsePrefix("224.0.0.0/4"), Forbidden},        // Multicast: RFC 5771
	{netip.MustParsePrefix("ff00::/8"), Forbidden},           // Multicast: RFC 4291, section 2.7
	{netip.MustParsePrefix("255.255.255.255/32"), Forbidden}, // Broadcast: RFC 919
	{netip.MustParsePrefix("2001::/32"), Forbidden},          // Teredo flips the bits of an IPv4 address that nobody can vouch for: RFC 4380

	{netip.MustParsePrefix("127.0.0.0/8"), Loopback}, // RFC 1122, section 3.2.1.3
	{netip.MustParsePrefix("::1/128"), Loopback},     // RFC 4291, section 2.5.3

	{netip.MustParsePrefix("10.0.0.0/8"), Private},      // RFC 1918
	{netip.MustParsePrefix("172.16.0.0/12"), Private},   // RFC 1918
	{netip.MustParsePrefix("192.168.0.0/16"), Private},  // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), Private},   // Shared by carriers, and pods on EKS and GKE: RFC 6598
	{netip.MustParsePrefix("198.18.0.0/15"), Private},   // Benchmarks: RFC 2544
	{netip.MustParsePrefix("192.0.2.0/24"), Private},    // Documentation: RFC 5737
	{netip.MustParsePrefix("198.51.100.0/24"), Private}, // Documentation: RFC 5737
	{netip.MustParsePrefix("203.0.113.0/24"), Private},  // Documentation: RFC 5737
	{netip.MustParsePrefix("192.88.99.0/24"), Private},  // Relays of 6to4: RFC 7526
	{netip.MustParsePrefix("240.0.0.0/4"), Private},     // Reserved, and in use inside of clouds: RFC 1112, section 4
	{netip.MustParsePrefix("fc00::/7"), Private},        // RFC 4193
	{netip.MustParsePrefix("fec0::/10"), Private},       // Site-local: RFC 3879
	{netip.MustParsePrefix("2001::/23"), Private},       // Protocols: RFC 2928
	{netip.MustParsePrefix("2001:db8::/32"), Private},   // Documentation: RFC 3849
	{netip.MustParsePrefix("3fff::/20"), Private},       // Documentation: RFC 9637
	{netip.MustParsePrefix("100::/64"), Private},        // Discarded: RFC 6666
}

// embedding are networks of IPv6 whose addresses lead to one of IPv4, and where that is in them: NAT64, its local
// prefix, 6to4, and what was once compatible.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("64:ff9b:1::/48"), 12},
	{netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12},
}

// Of tells how far in an address is.
func Of(addr netip.Addr) Reach {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return Forbidden
	}
	for _, n := range networks {
		if n.prefix.Contains(addr) {
			return n.reach
		}
	}
	for _, e := range embedding {
		if raw := addr.As16(); addr.Is6() && e.prefix.Contains(addr) {
			return Of(netip.AddrFrom4([4]byte(raw[e.at : e.at+4])))
		}
	}
	return Public
}

// Check says why an address may not be dialled by somebody who may go as far in as most, or into networks. One
// that is for nobody is meant only by a network that is this address alone: who writes 100.64.0.0/10 thinks of pods.
func Check(addr netip.Addr, most Reach, networks []netip.Prefix) error {
	plain, r := addr.Unmap().WithZone(""), Of(addr)
	if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(plain) && (r != Forbidden || p.IsSingleIP()) }) {
		return nil
	}
	if r > most {
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

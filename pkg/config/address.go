package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// The ports of addresses that have none.
const (
	PeerPort      = 28501
	DiscoveryPort = 28502
)

const (
	// maxAddresses is how many addresses a member can tell others that it has.
	maxAddresses = 8
	// maxHostName is the longest name that DNS has.
	maxHostName = 253
)

// URL gives where clients on this machine reach the mirror: the first address of listen, by loopback if it is for all.
// It is empty if the port is any free one, which only a running mirror knows.
func (m *Mirror) URL() string {
	if len(m.Listen) == 0 {
		return ""
	}
	host, port, err := net.SplitHostPort(m.Listen[0])
	if err != nil || strings.Trim(port, "0") == "" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + m.PathPrefix
}

// ControlSocket gives the path of the socket where the mirror takes orders.
func (c *Config) ControlSocket() string {
	if c.Control.Socket != "" {
		return c.Control.Socket
	}
	return filepath.Join(c.DataDir, "control.sock")
}

// Addrs gives the addresses of listen in a valid configuration.
func (p *Peers) Addrs() []netip.AddrPort { return addrPorts(p.Listen) }

// Addrs gives the addresses of listen in a valid configuration.
func (d *Discovery) Addrs() []netip.AddrPort { return addrPorts(d.Listen) }

// Addrs gives the addresses in a valid configuration.
func (b *Bootstrap) Addrs() []netip.AddrPort { return addrPorts(b.Addresses) }

// Name gives the name to look up for members, empty if there is none, and the port of its addresses, 0 if the name
// has SRV records, which say the port.
func (b *Bootstrap) Name() (name string, port uint16) {
	host, text, err := net.SplitHostPort(b.DNS)
	if err != nil {
		return b.DNS, 0
	}
	n, _ := strconv.ParseUint(text, 10, 16) // Validation has seen it.
	return host, uint16(n)
}

func addrPorts(addresses []string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range addresses {
		if ap, err := netip.ParseAddrPort(a); err == nil {
			all = append(all, ap)
		}
	}
	return all
}

// parseAddress reads an address of a member. It is generous, because a template can't know whether the address of a
// node is one of IPv4 or IPv6: the port may be missing, and brackets may be there or not.
func parseAddress(s string, port uint16) (netip.AddrPort, error) {
	host := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	ip, err := netip.ParseAddr(host)
	if err != nil {
		var text string
		if host, text, err = net.SplitHostPort(s); err != nil {
			return netip.AddrPort{}, fmt.Errorf("is %s, not an address such as 10.0.0.5:%d", quote(s), port)
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("has the port %s, expected 0 to 65535", quote(text))
		}
		if port = uint16(n); host == "" {
			host = "::"
		}
		if ip, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("has the host %s, expected an IP address", quote(host))
		}
	}
	if ip.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("is %s, and the zone of an address means nothing to other machines", quote(s))
	}
	return netip.AddrPortFrom(ip.Unmap(), port), nil
}

// checkHostPort says what is wrong with an address that is told to others, if anything.
func checkHostPort(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "is " + quote(s) + ", not an address such as 10.0.0.5:28501"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "has the port " + quote(port) + ", expected 1 to 65535"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() || ip.Zone() != "" {
			return "is " + quote(s) + ", which means nothing to other machines"
		}
		return ""
	}
	return checkName(host)
}

// checkName says what is wrong with a name of DNS, if anything. Labels with underscores are those of SRV records.
func checkName(name string) string {
	if len(name) <= maxHostName && nameGrammar.MatchString(name) {
		return ""
	}
	return "has the host " + quote(name) + ", expected an IP address or a name"
}

package reference

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// addresses is the owner of all registries that are named by an address.
const addresses = "(addresses)"

// Owner names who holds a registry's name, for bounds that nobody gets around by making up names: the domain that can
// be registered, which costs money, with as many hosts in it as its holder likes. Domains whose holders give away names
// below them (the private part of the public suffix list) count as one, and so do all addresses.
func Owner(registry string) string {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil {
		return addresses
	}
	suffix, icann := publicsuffix.PublicSuffix(host)
	for !icann && strings.Contains(suffix, ".") {
		_, suffix, _ = strings.Cut(suffix, ".")
		if suffix, icann = publicsuffix.PublicSuffix(suffix); suffix == "" {
			break
		}
	}
	rest, ok := strings.CutSuffix(host, "."+suffix)
	if !ok {
		return host
	}
	return rest[strings.LastIndexByte(rest, '.')+1:] + "." + suffix
}

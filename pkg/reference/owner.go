package reference

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

const (
	// ownerAddresses are the registries that have no name: an address costs nobody anything in IPv6.
	ownerAddresses = "addresses"
	// ownerLocal are the registries whose name has no domain that could be somebody's.
	ownerLocal = "local"
)

// Owner names who holds a registry's name, with or without a port, for bounds that nobody gets around by making up
// names. That is the domain that somebody registered: who has one can make up names below it, so these must not count
// as many. Suffixes that companies offer to the public below a domain of their own, such as that of a cloud's registry,
// are one owner too.
func Owner(registry string) string {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ownerAddresses
	}
	suffix, managed := publicsuffix.PublicSuffix(host)
	for !managed { // A company's suffix, or one that nobody knows: of these the last label is one.
		_, above, ok := strings.Cut(suffix, ".")
		if !ok {
			break
		}
		suffix, managed = publicsuffix.PublicSuffix(above)
	}
	below, ok := strings.CutSuffix(host, "."+suffix)
	label := below[strings.LastIndexByte(below, '.')+1:]
	if !ok || label == "" {
		return ownerLocal
	}
	return label + "." + suffix
}

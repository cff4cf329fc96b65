package content

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Owner is in whose name content came here, for sharing out room: all registries whose names one party may make up as
// it likes have one owner. It gives no rights. The zero Owner is whoever is not known.
type Owner string

const (
	// ownerAddresses are the registries that have no name: an address costs nobody anything in IPv6.
	ownerAddresses Owner = "addresses"
	// ownerLocal are the registries whose name has no domain that could be somebody's.
	ownerLocal Owner = "local"
)

// OwnerOf gives the owner of what a registry brings, by the registry's host with or without a port. That is the domain
// that somebody registered: who has one can make up names below it, so these must not count as many. Suffixes that
// companies offer to the public below a domain of their own, such as that of a cloud's registry, are one owner too.
func OwnerOf(registry string) Owner {
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
	return Owner(label + "." + suffix)
}

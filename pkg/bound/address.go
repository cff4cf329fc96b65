package bound

import "net/netip"

// Address gives the source that one address is by itself, for those who are known to have no others.
func Address(addr netip.Addr) Source {
	addr = addr.Unmap().WithZone("")
	return Source{netip.PrefixFrom(addr, addr.BitLen())}
}

// Network gives the source of an address where loopback is as other networks are.
func Network(addr netip.Addr) Source {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		return Source{netip.PrefixFrom(addr, 64).Masked()}
	}
	return Address(addr)
}

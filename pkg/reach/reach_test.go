package reach

import (
	"net/netip"
	"testing"
)

func TestReach(t *testing.T) {
	for text, want := range map[string]Reach{
		"8.8.8.8": Public, "2606:4700::1": Public, "10.0.0.1": Private, "172.31.0.1": Private, "192.168.0.1": Private,
		"100.64.0.1": Private, "fd00::1": Private, "fec0::1": Private, "127.0.0.1": Loopback, "127.8.8.8": Loopback, "::1": Loopback,
		"::ffff:127.0.0.1": Loopback, "::ffff:10.0.0.1": Private, "169.254.169.254": Forbidden, "::ffff:169.254.169.254": Forbidden,
		"fe80::1": Forbidden, "fe80::1%eth0": Forbidden, "0.0.0.0": Forbidden, "0.1.2.3": Forbidden, "::": Forbidden, "224.0.0.1": Forbidden,
		"ff02::1": Forbidden, "255.255.255.255": Forbidden, "fd00:ec2::254": Forbidden, "64:ff9b::a9fe:a9fe": Forbidden,
		"64:ff9b::a00:1": Private, "64:ff9b::808:808": Public, "2002:7f00:1::": Loopback, "2002:a9fe:a9fe::1": Forbidden, "::10.0.0.1": Private,
		"2001:0:7f00:1::": Forbidden, "198.18.0.1": Private, "240.0.0.1": Private, "192.0.0.1": Forbidden,
		// Clouds' own, plainly and in other forms.
		"168.63.129.16": Forbidden, "::ffff:168.63.129.16": Forbidden, "64:ff9b::a83f:8110": Forbidden, "2002:a83f:8110::1": Forbidden, "::168.63.129.16": Forbidden,
		"64:ff9b:1::a83f:8110": Forbidden, "168.63.129.15": Public, "fd00:ec2::": Forbidden, "fd00:ec2::23": Forbidden, "fd00:ec2::123": Forbidden, "fd00:ec2::250": Forbidden,
		"fd00:ec2::253": Forbidden, "fd00:ec2:ffff::1": Forbidden, "fd00:ec3::254": Private, "192.0.0.192": Forbidden, "64:ff9b::c000:c0": Forbidden, "100.100.100.200": Forbidden,
		"64:ff9b::6464:64c8": Forbidden, "100.100.100.199": Private, "fd20:ce::254": Forbidden, "fd20:ce::253": Private, "fd00:c1::a9fe:a9fe": Forbidden, "fd00:42::42": Forbidden,
		"fd00:a9fe:a9fe::1": Forbidden, "169.254.170.2": Forbidden, "169.254.170.23": Forbidden, "169.254.0.23": Forbidden, "169.254.255.255": Forbidden, "fe80::a9fe:a9fe": Forbidden,
		"febf::1": Forbidden, "100.127.255.255": Private, "100.128.0.1": Public, "172.32.0.1": Public, "fc00::1": Private, "3fff::1": Private, "2001:200::1": Public,
	} {
		if got := Of(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if Of(netip.Addr{}) != Forbidden {
		t.Error("no address is one")
	}
	networks := prefixes("10.1.0.0/16", "100.64.0.0/10", "fd00::/8", "0.0.0.0/0", "169.254.7.7/32")
	for text, ok := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": true, "fd01::1": true, "fec0::1": false, "169.254.7.7": true, "::ffff:169.254.7.7": true,
		"169.254.7.8": false, "100.100.100.200": false, "fd00:ec2::254": false, "168.63.129.16": false, "100.100.100.201": true,
	} {
		if err := Check(netip.MustParseAddr(text), Public, networks); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range all {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// What is special within a network stands before it, or it would never hold.
func TestOrder(t *testing.T) {
	for i, n := range networks {
		if n.prefix != n.prefix.Masked() {
			t.Errorf("%s has bits beside its mask", n.prefix)
		}
		for _, before := range networks[:i] {
			if before.prefix.Bits() <= n.prefix.Bits() && before.prefix.Overlaps(n.prefix) {
				t.Errorf("%s stands before %s and hides it", before.prefix, n.prefix)
			}
		}
	}
}

// FuzzOf checks that no way to write an address of IPv4 in one of IPv6 makes it more public.
func FuzzOf(f *testing.F) {
	f.Add([]byte{168, 63, 129, 16})
	f.Add([]byte{100, 100, 100, 200})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) != 4 {
			return
		}
		plain := netip.AddrFrom4([4]byte(raw))
		for _, e := range embedding {
			bytes := e.prefix.Addr().As16()
			copy(bytes[e.at:], raw)
			if got := Of(netip.AddrFrom16(bytes)); got < Of(plain) && bytes != netip.IPv6Loopback().As16() {
				t.Errorf("%s is %s, but %s is %s", plain, Of(plain), netip.AddrFrom16(bytes), got)
			}
		}
		if got := Of(netip.AddrFrom16(plain.As16())); got != Of(plain) {
			t.Errorf("%s is %s, mapped %s", plain, Of(plain), got)
		}
	})
}

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
		"2001:0:7f00:1::": Forbidden, "198.18.0.1": Private, "240.0.0.1": Private, "192.0.0.192": Private,
	} {
		if got := Of(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if Of(netip.Addr{}) != Forbidden {
		t.Error("no address is one")
	}
	networks := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	for text, ok := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false} {
		if err := Check(netip.MustParseAddr(text), Public, networks); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

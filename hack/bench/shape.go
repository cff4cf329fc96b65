package main

import (
	"context"
	"net"
	"strings"

	"github.com/kioo-dev/kioo/hack/registrytest"
)

const shapedName = "uncached pull at 1 Gbit/s"

// pullShaped is pull with what the upstream sends held to a gigabit per second, as a node's line may be.
func (b *bench) pullShaped(ctx context.Context) ([]row, error) {
	if why := noNamespace("ip", "tc"); why != "" {
		return []row{{Name: shapedName, Unit: "s", Note: why}}, nil
	}
	return b.inNamespace(ctx, "shaped")
}

// pullShapedHere runs in the namespace.
func (b *bench) pullShapedHere(ctx context.Context) ([]row, error) {
	return b.pullFrom(ctx, shapedName, func(up *registrytest.Registry) error { return shape(ctx, up.DirectHost()) })
}

// shape holds what comes from one port to a gigabit per second. The rest of loopback, above all what Kioo sends to
// its clients, stays as fast as it is.
func shape(ctx context.Context, host string) error {
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return err
	}
	for _, args := range []string{
		"qdisc add dev lo root handle 1: htb default 0 r2q 1000",
		"class add dev lo parent 1: classid 1:10 htb rate 1gbit burst 256k",
		"filter add dev lo parent 1: protocol ip u32 match ip sport " + port + " 0xffff flowid 1:10",
	} {
		if err := tool(ctx, "tc", strings.Fields(args)...); err != nil {
			return err
		}
	}
	return nil
}

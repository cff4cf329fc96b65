package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Bootstrapper says where other members may be found. It is asked again and again, so its answer may change, and may
// name this member itself.
type Bootstrapper interface {
	// Peers gives addresses of other members' DHT. It must be done when ctx ends. Safe for concurrent use.
	Peers(ctx context.Context) ([]netip.AddrPort, error)
}

// Resolver is the part of net.Resolver that DNS needs.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Static finds members at addresses that are known beforehand.
type Static []netip.AddrPort

// Peers implements Bootstrapper.
func (s Static) Peers(context.Context) ([]netip.AddrPort, error) { return s, nil }

// DNS finds members by the A and AAAA records of a name, such as a headless service's.
type DNS struct {
	// Name is the name to look up.
	Name string
	// Port is where all members of that name listen. Zero means that Name is looked up as it is for SRV records,
	// which say the port: "_dht._tcp.kioo.kioo-system.svc.cluster.local".
	Port uint16
	// Resolver looks names up; nil means net.DefaultResolver.
	Resolver Resolver
}

// Peers implements Bootstrapper.
func (d DNS) Peers(ctx context.Context) ([]netip.AddrPort, error) {
	var resolver Resolver = net.DefaultResolver
	if d.Resolver != nil {
		resolver = d.Resolver
	}
	if d.Port != 0 {
		return lookup(ctx, resolver, d.Name, d.Port)
	}
	_, records, err := resolver.LookupSRV(ctx, "", "", d.Name)
	if err != nil {
		return nil, fmt.Errorf("look up SRV %s: %w", d.Name, err)
	}
	var addrs []netip.AddrPort
	var errs []error
	for _, r := range records[:min(len(records), maxBootstrap)] {
		found, err := lookup(ctx, resolver, r.Target, r.Port)
		addrs, errs = append(addrs, found...), append(errs, err)
	}
	if len(addrs) > 0 {
		return addrs, nil // Targets of members that just went away are no news.
	}
	return nil, errors.Join(errs...)
}

func lookup(ctx context.Context, resolver Resolver, name string, port uint16) ([]netip.AddrPort, error) {
	ips, err := resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return addrs, nil
}

// Combined asks several others, all at once, and fails only when nobody of them knows anything.
type Combined []Bootstrapper

// Peers implements Bootstrapper.
func (c Combined) Peers(ctx context.Context) ([]netip.AddrPort, error) {
	var (
		wg    sync.WaitGroup
		addrs = make([][]netip.AddrPort, len(c))
		errs  = make([]error, len(c))
		all   []netip.AddrPort
	)
	for i, b := range c {
		wg.Go(func() { addrs[i], errs[i] = b.Peers(ctx) })
	}
	wg.Wait()
	for _, a := range addrs {
		all = append(all, a...)
	}
	if len(all) > 0 {
		return all, nil
	}
	return nil, errors.Join(errs...)
}

package e2e_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/hack/registrytest"
)

// upstream is a registry on this machine, and what the nodes see of it: a server at the gateway of their network.
type upstream struct {
	*registrytest.Switch
	registry *registrytest.Registry
	host     string // Its address, as images have it.
}

// The tenants of the private registry, each of whom may pull one repository, and their passwords.
const (
	tenantA, tenantB       = "tenant-a", "tenant-b"
	privateA, privateB     = tenantA + "/app", tenantB + "/app"
	secretOfA, secretOfB   = "what-only-a-knows", "what-only-b-knows"
	withSecret, withoutAny = "pull-secret", "" // Names of pull secrets.
)

// startUpstreams runs two registries: one that everybody reads, and one with a token service and tenants.
func (s *suite) startUpstreams(t *testing.T) {
	t.Helper()
	gateway := ""
	for _, g := range strings.Fields(s.must(t, "docker", "network", "inspect", "kind", "-f", "{{range .IPAM.Config}}{{.Gateway}} {{end}}")) {
		if ip, err := netip.ParseAddr(g); err == nil && ip.Is4() {
			gateway = g
		}
	}
	if gateway == "" {
		t.Fatal("kind's network has no IPv4 gateway")
	}
	s.upstream = startUpstream(t, gateway, registrytest.New(t, registrytest.Config{}))
	// The registry tells where its token service is, and so that one's address has to be there first.
	l, err := net.Listen("tcp", net.JoinHostPort(gateway, "0"))
	if err != nil {
		t.Fatal(err)
	}
	registry := registrytest.New(t, registrytest.Config{
		Auth: registrytest.AuthToken, Realm: "http://" + l.Addr().String() + "/token",
		Users: map[string]registrytest.User{
			tenantA: {Password: secretOfA, Repositories: []string{privateA}},
			tenantB: {Password: secretOfB, Repositories: []string{privateB}},
		},
	})
	tokens := registrytest.NewSwitch(registry.TokenServer(), func() (net.Listener, error) { return l, nil })
	if err := tokens.Resume(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.Stop)
	s.private = startUpstream(t, gateway, registry)
	s.images = newImages(t, s)
}

func startUpstream(t *testing.T, gateway string, registry *registrytest.Registry) *upstream {
	t.Helper()
	u := &upstream{registry: registry, host: net.JoinHostPort(gateway, "0")}
	u.Switch = registrytest.NewSwitch(registry.Proxy, func() (net.Listener, error) {
		l, err := net.Listen("tcp", u.host)
		if err == nil {
			u.host = l.Addr().String() // The same each time.
		}
		return l, err
	})
	if err := u.Resume(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Stop)
	return u
}

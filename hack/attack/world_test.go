package attack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

// The tenants, each with repositories of his own below his name in the private registry, and the password that both
// registries know.
const (
	tenantA, passwordA = "tenant-a", "password-of-a"
	tenantB, passwordB = "tenant-b", "password-of-b"
)

// Where things are. Public addresses are those that nobody's private network has; there is nobody behind them but us.
const (
	basicPort  = 5010
	publicPort = 5011
	tokenPort  = 5001
	evilPort   = 5004
	// evilPublic is the attacker's registry at a public address.
	evilPublic = "20.1.2.3"
	// evilAgain is another one of his.
	evilAgain     = "20.1.2.4"
	memberControl = 28599

	cacheBytes = 96 << 20
	openFor    = 3 * time.Second
)

// denied is a part of Docker Hub, and of another registry, that the nodes' configuration denies.
const deniedPath, deniedRegistry = "denied/app", "registry.example.com"

// side is a registry beside the fleet's upstream.
type side struct {
	*registrytest.Registry
	host string
	sw   *registrytest.Switch
}

// Host is its name for the nodes.
func (s *side) Host() string { return s.host }

// world is two nodes, the registries that they pull from, and the attackers.
type world struct {
	*fleet.Fleet
	private  *side // With tokens: tenants have repositories of their own. It is the fleet's upstream.
	basic    *side // With passwords.
	public   *side
	evil     *evil
	member   *member
	identity string      // Where the member has its key.
	pod      *fleet.Node // A place that has an address, and nothing else.

	direct *http.Client // To the registries themselves, past everything.
	made   []string     // What was pushed, so that no name comes twice.
}

func newWorld(ctx context.Context, dir string) (_ *world, err error) {
	w := &world{direct: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: askTime}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := build(ctx, dir); err != nil {
		return nil, err
	}
	w.Fleet, err = fleet.New(ctx, fleet.Config{
		Nodes: 2, Kioo: program("kioo"), Configure: configure,
		Registry: registrytest.Config{Auth: registrytest.AuthToken, Users: tenants()},
	})
	if err != nil {
		return nil, err
	}
	w.private = &side{Registry: w.Upstream.Registry, host: w.Upstream.Host()}
	if w.basic, err = w.newSide(ctx, basicPort, registrytest.Config{Auth: registrytest.AuthBasic, Users: tenants()}); err != nil {
		return nil, err
	}
	if w.public, err = w.newSide(ctx, publicPort, registrytest.Config{}); err != nil {
		return nil, err
	}
	if err := w.addAttackers(ctx, dir); err != nil {
		return nil, err
	}
	return w, w.Settle(ctx)
}

// tenants may pull all that is theirs. Attacks have repositories of their own.
func tenants() map[string]registrytest.User {
	users := map[string]registrytest.User{tenantA: {Password: passwordA}, tenantB: {Password: passwordB}}
	for name, user := range users {
		user.Repositories = []string{}
		for i := range maxImages {
			user.Repositories = append(user.Repositories, fmt.Sprintf("%s/app-%d", name, i))
		}
		users[name] = user
	}
	return users
}

// maxImages bounds how many repositories a tenant has.
const maxImages = 512

func (w *world) newSide(ctx context.Context, port uint16, cfg registrytest.Config) (*side, error) {
	registry, err := registrytest.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &side{Registry: registry, host: netip.AddrPortFrom(w.Upstream.Addr, port).String()}
	s.sw = registrytest.NewSwitch(registry, func() (net.Listener, error) { return w.Upstream.Listen(s.host) })
	return s, s.sw.Resume()
}

// configure is a node's as an operator has it who has registries inside, denies a part of the outside, and has a
// cache stand before all the rest.
func configure(n *fleet.Node, cfg *config.Config) {
	upstream := netip.MustParseAddrPort(cfg.Registries[0].Match).Addr()
	at := func(port uint16) string { return netip.AddrPortFrom(upstream, port).String() }
	rule := func(match, endpoint string) config.Registry {
		r := config.DefaultRegistry()
		r.Match = match
		if endpoint != "" {
			r.Endpoints = []config.Endpoint{config.EndpointAt("http://" + endpoint)}
		} else {
			r.Action = config.Deny
		}
		return r
	}
	hosts := []string{at(basicPort), at(publicPort)}
	for _, address := range evilAddresses {
		hosts = append(hosts, net.JoinHostPort(address, fmt.Sprint(evilPort)))
	}
	for _, host := range hosts {
		cfg.Registries = append(cfg.Registries, rule(host, host))
		dir := filepath.Join(n.CertsDir(), host)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts.toml"),
			fmt.Appendf(nil, "server = %q\n", "http://"+host), 0o644)); err != nil {
			continue // Pulls from there will say so.
		}
	}
	cfg.Registries = append(cfg.Registries,
		rule("docker.io/"+deniedPath, ""), rule(deniedRegistry+"/"+deniedPath, ""), rule("*", at(publicPort)))
	cfg.Metrics.Listen = "0.0.0.0:28504"
	cfg.Access.OpenFor = openFor
	cfg.Access.Rules = []config.AccessRule{{Match: "*/verified/*", Mode: config.AccessVerify}}
	cfg.Cache.MaxBytes = cacheBytes
	only := config.DefaultTagRule()
	only.Match, only.Policy = "*:only", config.UpstreamOnly
	cfg.Tags.Rules = []config.TagRule{only}
	cfg.Upstream.Attempts = 1
}

// evilAddresses are those of the attacker's registry, the private one of his place first.
var evilAddresses = []string{"10.77.254.1", evilPublic, evilAgain}

// addAttackers starts the attacker's programs, each in a place of its own.
func (w *world) addAttackers(ctx context.Context, dir string) error {
	var places []*fleet.Node
	for range 3 {
		place, err := w.AddStranger(ctx)
		if err != nil {
			return err
		}
		places = append(places, place)
	}
	w.pod = places[2]
	for _, address := range evilAddresses[1:] {
		if _, err := places[0].Output(ctx, "ip", "addr", "add", address+"/32", "dev", "lo"); err != nil {
			return err
		}
		for _, n := range w.Nodes {
			if _, err := n.Output(ctx, "ip", "route", "add", address+"/32", "via", places[0].Addr.String()); err != nil {
				return err
			}
		}
	}
	var err error
	if w.evil, err = startEvil(ctx, places[0]); err != nil {
		return err
	}
	w.identity = filepath.Join(dir, "identity")
	w.member, err = startMember(ctx, places[1], w.Fleet, w.identity)
	return err
}

// close ends everything.
func (w *world) close() error {
	for _, p := range []*process.Process{w.evilProcess(), w.memberProcess()} {
		if p != nil {
			p.Kill()
		}
	}
	for _, s := range []*side{w.basic, w.public} {
		if s != nil {
			s.sw.Stop()
			s.Registry.Close()
		}
	}
	if w.Fleet == nil {
		return nil
	}
	return w.Fleet.Close()
}

func (w *world) evilProcess() *process.Process {
	if w.evil == nil {
		return nil
	}
	return w.evil.Process
}

func (w *world) memberProcess() *process.Process {
	if w.member == nil {
		return nil
	}
	return w.member.Process
}

// evil is the attacker's registry.
type evil struct {
	*process.Process
	remote
}

// Host is its name at its private address, and PublicHost that at its public one.
func (e *evil) Host() string { return net.JoinHostPort(evilAddresses[0], fmt.Sprint(evilPort)) }

func (e *evil) PublicHost() string { return net.JoinHostPort(evilPublic, fmt.Sprint(evilPort)) }

func startEvil(ctx context.Context, place *fleet.Node) (*evil, error) {
	var listen []string
	for _, address := range evilAddresses {
		listen = append(listen, net.JoinHostPort(address, fmt.Sprint(evilPort)), net.JoinHostPort(address, "443"))
	}
	p, err := place.Start(process.Config{Path: program("evilregistry"), Args: []string{"-listen", strings.Join(listen, ",")}})
	if err != nil {
		return nil, err
	}
	e := &evil{Process: p, remote: remote{place: place, base: "http://" + listen[0] + evilregistry.Control}}
	return e, p.WaitReady(ctx, func() bool { return e.do(ctx, "GET", "seen", nil, nil) == nil })
}

// member is the member that was taken over.
type member struct {
	*process.Process
	remote
	peer string
}

func startMember(ctx context.Context, place *fleet.Node, f *fleet.Fleet, dir string) (*member, error) {
	control := netip.AddrPortFrom(place.Addr, memberControl).String()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var others []string
	for _, n := range f.Nodes {
		others = append(others, n.DHTAddr())
	}
	p, err := place.Start(process.Config{Path: program("evilmember"), Args: []string{
		"-key", f.KeyFile(), "-data", dir, "-peer", place.PeerAddr(), "-dht", place.DHTAddr(), "-control", control,
		"-bootstrap", strings.Join(others, ","),
	}})
	if err != nil {
		return nil, err
	}
	m := &member{Process: p, remote: remote{place: place, base: "http://" + control + evilmember.Control}, peer: place.PeerAddr()}
	return m, p.WaitReady(ctx, func() bool { return m.do(ctx, "GET", "state", nil, nil) == nil })
}

// fresh gives a name that nobody had before.
func (w *world) fresh(what string) string {
	n := 0
	for _, name := range w.made {
		if strings.HasPrefix(name, what+"-") {
			n++
		}
	}
	name := fmt.Sprintf("%s-%d", what, n)
	w.made = append(slices.Clip(w.made), name)
	return name
}

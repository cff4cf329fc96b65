package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kioo-dev/kioo/hack/process"
)

// Place is a network namespace with one link to the fleet's bridge. It is safe for concurrent use.
type Place struct {
	// Name is unique within the fleet: node-1, upstream, stranger-1.
	Name string
	// Addr is the place's address on the bridge.
	Addr netip.Addr

	network   *network
	namespace string
}

// Wrapper is the command that runs another one in this place.
func (p *Place) Wrapper() []string { return []string{"ip", "netns", "exec", p.namespace} }

// Start starts a program in this place, whose end is the caller's business. Its mounts are seen by itself alone.
func (p *Place) Start(cfg process.Config) (*process.Process, error) {
	wrapper := p.Wrapper()
	cfg.Args = append(append(wrapper[1:], cfg.Path), cfg.Args...)
	cfg.Path = wrapper[0]
	return process.Start(cfg)
}

// Output runs a program in this place to its end and returns what it printed, also if it fails.
func (p *Place) Output(ctx context.Context, program string, args ...string) (string, error) {
	line := append(append(p.Wrapper(), program), args...)
	out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s %s: %w\n%s", p.Name, program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// Listen listens in this place. The address must be an IP address with a port.
func (p *Place) Listen(address string) (l net.Listener, err error) {
	err = p.visit(func() error {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// Dial connects from this place. The address must be an IP address with a port, as names would be looked up elsewhere.
func (p *Place) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", p.Name, err)
	}
	err = p.visit(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Client asks from this place. It keeps no connections, so there is nothing to close.
func (p *Place) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: p.Dial, DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: time.Minute,
	}}
}

// visit runs fn on a thread that is in this place's namespace. Sockets stay where they were made.
func (p *Place) visit(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- enter(filepath.Join(namespaces, p.namespace), fn) }()
	return <-done
}

// enter is called on a goroutine of its own: if its thread can't come back, it ends with it.
func enter(namespace string, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(namespace)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", namespace, err)
	}
	err = fn()
	if herr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); herr != nil {
		return errors.Join(err, fmt.Errorf("leave %s: %w", namespace, herr))
	}
	runtime.UnlockOSThread()
	return err
}

// Shape changes the place's link.
func (p *Place) Shape(ctx context.Context, link Link) error {
	if err := errors.Join(shape(ctx, p.namespace, port, link), shape(ctx, p.network.bridge(), p.Name, link)); err != nil {
		return fmt.Errorf("shape the link of %s: %w", p.Name, err)
	}
	return nil
}

// Black makes the place's link black: it drops all packets in both directions, and nobody is told.
func (p *Place) Black(ctx context.Context) error {
	if err := batch(ctx, "ip", p.network.bridge(), "link set "+p.Name+" nomaster"); err != nil {
		return fmt.Errorf("make the link of %s black: %w", p.Name, err)
	}
	return nil
}

// Restore ends what Black began. It does no harm to a link that works.
func (p *Place) Restore(ctx context.Context) error {
	if err := batch(ctx, "ip", p.network.bridge(), "link set "+p.Name+" master br0"); err != nil {
		return fmt.Errorf("restore the link of %s: %w", p.Name, err)
	}
	return nil
}

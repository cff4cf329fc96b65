package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxStrangers bounds how many places are known to all others besides the nodes and upstream.
	maxStrangers = 8

	// port is a place's own end of its link, and mask its network's.
	port = "eth0"
	mask = 16

	// toolTime bounds one run of ip or tc. They take milliseconds, and more only on a machine that is very busy.
	toolTime = 30 * time.Second

	// minBurst lets a packet of the largest size that the kernel hands to a link pass in one piece.
	minBurst = 128 << 10
	// burstTime is how long a link may send faster than its rate: less, and timers of a busy machine cost throughput.
	burstTime = 4 * time.Millisecond
	// queueTime is what a link queues before it drops, as a switch does, and minQueue what it queues at least.
	queueTime = 20 * time.Millisecond
	minQueue  = 256 << 10
)

// upstreamAddr, nodeAddr and strangerAddr are the plan of addresses. They exist in the namespaces alone, so all fleets
// have the same.
func upstreamAddr() netip.Addr           { return netip.AddrFrom4([4]byte{10, 77, 255, 1}) }
func nodeAddr(number int) netip.Addr     { return netip.AddrFrom4([4]byte{10, 77, 0, byte(number)}) }
func strangerAddr(number int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 254, byte(number)}) }
func hardwareAddr(addr netip.Addr) net.HardwareAddr {
	four := addr.As4()
	return append(net.HardwareAddr{0x02, 0x6b}, four[:]...) // Locally administered.
}

// network is a bridge in a namespace of its own, and the places around it.
type network struct {
	name  string
	nodes int // How many there will be.

	mu   sync.Mutex
	made []string // Namespaces that are to be deleted.
}

func (n *network) bridge() string { return n.name + "-bridge" }

// open makes the bridge.
func (n *network) open(ctx context.Context) error {
	if err := n.namespace(ctx, n.bridge()); err != nil {
		return err
	}
	if err := batch(ctx, "ip", n.bridge(),
		"link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
		"link set br0 addrgenmode none up",
	); err != nil {
		return err
	}
	if _, err := os.Stat(bridgeSettings); err != nil {
		return nil // No firewall looks at bridges here.
	}
	return tool(ctx, nil, "ip", "netns", "exec", n.bridge(), "sh", "-c",
		"for f in "+bridgeSettings+"/bridge-nf-call-*; do echo 0 >$f; done")
}

// bridgeSettings are there where Docker or Kubernetes runs, and then have the machine's firewall judge every frame, at
// a tenth of what it costs to move it.
const bridgeSettings = "/proc/sys/net/bridge"

func (n *network) namespace(ctx context.Context, name string) error {
	n.mu.Lock()
	n.made = append(n.made, name)
	n.mu.Unlock()
	return tool(ctx, nil, "ip", "netns", "add", name)
}

// close deletes all namespaces, and with them all that is in them.
func (n *network) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, name := range n.made {
		if _, err := os.Lstat(namespaces + "/" + name); err != nil {
			continue // It was never made.
		}
		errs = append(errs, tool(context.Background(), nil, "ip", "netns", "delete", name))
	}
	n.made = nil
	return errors.Join(errs...)
}

// attach makes a place with a link to the bridge.
func (n *network) attach(ctx context.Context, name string, addr netip.Addr, link Link) (*Place, error) {
	p := &Place{Name: name, Addr: addr, network: n, namespace: n.name + "-" + name}
	if err := n.namespace(ctx, p.namespace); err != nil {
		return nil, err
	}
	err := batch(ctx, "ip", n.bridge(),
		fmt.Sprintf("link add %s type veth peer name %s address %s netns %s", name, port, hardwareAddr(addr), p.namespace),
		fmt.Sprintf("link set %s addrgenmode none", name),
		fmt.Sprintf("link set %s master br0 up", name),
	)
	if err != nil {
		return nil, err
	}
	lines := []string{
		"link set lo up",
		fmt.Sprintf("link set %s addrgenmode none", port),
		fmt.Sprintf("addr add %s/%d dev %s noprefixroute", addr, mask, port),
		fmt.Sprintf("link set %s up", port),
		// The machine's own choice of congestion control, which namespaces inherit, would make figures differ from one
		// machine to the next.
		fmt.Sprintf("route replace %s dev %s src %s congctl %s", netip.PrefixFrom(addr, mask).Masked(), port, addr, congestion()),
	}
	// Everyone knows everyone's hardware address for good. If they had to ask, who wants to reach a place behind a
	// black link would be told within seconds that there is no such host, which no router between two nodes would say.
	for _, other := range n.plan() {
		if other != addr {
			lines = append(lines, fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", other, hardwareAddr(other), port))
		}
	}
	if err := batch(ctx, "ip", p.namespace, lines...); err != nil {
		return nil, err
	}
	return p, p.Shape(ctx, link)
}

// congestion is what nearly all machines use, or else what every kernel has.
func congestion() string {
	available, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if slices.Contains(strings.Fields(string(available)), "cubic") {
		return "cubic"
	}
	return "reno"
}

// plan gives all addresses that there may be.
func (n *network) plan() []netip.Addr {
	all := []netip.Addr{upstreamAddr()}
	for i := range n.nodes {
		all = append(all, nodeAddr(i+1))
	}
	for i := range maxStrangers {
		all = append(all, strangerAddr(i+1))
	}
	return all
}

// shape sets what one end of a link sends: the latency, and the rate by a token bucket. Each kind has a handle of its
// own, because the kernel replaces nothing by another kind of the same handle.
func shape(ctx context.Context, namespace, device string, link Link) error {
	var lines []string
	parent, unlimited := "root", "noqueue"
	if link.Latency > 0 {
		// The limit holds what is under way: a second of packets of 64 KiB, at any rate that a machine moves.
		lines = append(lines, fmt.Sprintf("qdisc replace dev %s root handle 10: netem delay %dus limit 100000",
			device, link.Latency.Microseconds()))
		parent, unlimited = "parent 10:1", "pfifo limit 1000"
	}
	if link.Rate > 0 {
		burst := max(minBurst, bytesIn(link.Rate, burstTime))
		queue := max(minQueue, bytesIn(link.Rate, queueTime))
		lines = append(lines, fmt.Sprintf("qdisc replace dev %s %s tbf rate %dbit burst %d limit %d",
			device, parent, link.Rate, burst, burst+queue))
	} else {
		lines = append(lines, fmt.Sprintf("qdisc replace dev %s %s %s", device, parent, unlimited))
	}
	err := batch(ctx, "tc", namespace, lines...)
	if err != nil && link.Latency > 0 && strings.Contains(err.Error(), "qdisc kind is unknown") {
		return fmt.Errorf("this kernel can't delay packets, it has no sch_netem: %w", err)
	}
	return err
}

func bytesIn(rate int64, t time.Duration) int64 { return int64(float64(rate) / 8 * t.Seconds()) }

// probe says why there can be no namespaces, although this is root.
func probe() string {
	dir, err := newDir()
	if err != nil {
		return "a fleet needs /proc and a temporary directory: " + err.Error()
	}
	n := &network{name: filepath.Base(dir)}
	ctx, cancel := context.WithTimeout(context.Background(), toolTime)
	defer cancel()
	if err := errors.Join(n.open(ctx), n.close(), os.Remove(dir)); err != nil {
		return "a fleet needs CAP_NET_ADMIN and CAP_SYS_ADMIN: " + err.Error()
	}
	return ""
}

// batch runs lines of ip or tc in a namespace.
func batch(ctx context.Context, program, namespace string, lines ...string) error {
	if err := tool(ctx, strings.NewReader(strings.Join(lines, "\n")+"\n"), program, "-n", namespace, "-batch", "-"); err != nil {
		return fmt.Errorf("%w, of:\n%s", err, strings.Join(lines, "\n"))
	}
	return nil
}

func tool(ctx context.Context, input io.Reader, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = input
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

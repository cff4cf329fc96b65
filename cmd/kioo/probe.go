package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	rpc "google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// probeCounter is where the mirror counts.
	probeCounter = "kioo_probe_requests_total"

	// countTimeout bounds one look at the mirror's metrics.
	countTimeout = 2 * time.Second
	// probeTimeout bounds the pull. What comes after the mirror, upstream, may take as long as it likes.
	probeTimeout = 15 * time.Second
	// probeInterval is how often the mirror is asked meanwhile.
	probeInterval = 200 * time.Millisecond
	// maxMetrics bounds what is read of the mirror's metrics, which have some 100 KiB.
	maxMetrics = 16 << 20
)

// client talks to this node's containerd.
type client struct{ conn *grpc.ClientConn }

func newClient(socket string) (*client, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	return &client{conn: conn}, nil
}

func (c *client) close() { _ = c.conn.Close() } // It was only asked.

// pull has containerd pull as the kubelet would: only CRI reads the registry directory by config.toml.
func (c *client) pull(ctx context.Context, image string) error {
	_, err := cri.NewImageServiceClient(c.conn).PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
	switch s := rpc.Convert(err); {
	case err == nil:
		return fmt.Errorf("%s exists, which can't be", image)
	case s.Code() == codes.Unimplemented:
		return errors.New("containerd serves no CRI, so that Kubernetes can't use it: is its CRI plugin disabled?")
	default:
		return errors.New(s.Message())
	}
}

// probe finds out whether a pull through containerd reaches the mirror.
type probe struct {
	containerd *client
	// metrics is the mirror's metrics.listen.
	metrics string
	// registries are those that go through the mirror; none are all.
	registries []string
	// blind is why nobody could see what the mirror heard; the pull was not tried then.
	blind error
}

// image gives a name that nobody has pulled before. Where only some registries go through the mirror, it is one of
// theirs.
func (p *probe) image() string {
	name := reference.Probe + "/check/" + strings.ToLower(rand.Text()) + ":probe"
	if len(p.registries) > 0 {
		name = p.registries[0] + "/" + name
	}
	return name
}

// run pulls and says why the mirror did not hear of it, if it did not.
func (p *probe) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	before, err := p.count(ctx)
	if err != nil {
		p.blind = err
		return nil
	}
	pulled := make(chan error, 1)
	var pulling sync.WaitGroup
	pulling.Go(func() { pulled <- p.containerd.pull(ctx, p.image()) })
	defer pulling.Wait()
	defer cancel() // Once the mirror has heard of it, nobody cares how it ends.
	return p.watch(ctx, before, pulled)
}

// watch waits for the mirror to count, or for the pull to end without.
func (p *probe) watch(ctx context.Context, before uint64, pulled <-chan error) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		var outcome error
		ended := false
		select {
		case outcome = <-pulled:
			ended = true
		case <-tick.C:
		}
		// The answer to the last question counts even if the pull took all the time that there was.
		askCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
		now, err := p.count(askCtx)
		cancel()
		switch {
		case err == nil && now > before:
			return nil
		case ended && err != nil:
			return err
		case ended:
			return fmt.Errorf("containerd said: %w", outcome)
		}
	}
}

// count reads how often the mirror was asked for the reserved name.
func (p *probe) count(ctx context.Context) (uint64, error) {
	if p.metrics == "" {
		return 0, errors.New("metrics.listen is empty")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+onLoopback(p.metrics)+"/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("read the mirror's metrics: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true} // Without a proxy, whatever the environment says.
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, fmt.Errorf("read the mirror's metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("read the mirror's metrics: %s answers %s", req.URL, resp.Status)
	}
	n, err := readCounter(io.LimitReader(resp.Body, maxMetrics), probeCounter)
	if err != nil {
		return 0, fmt.Errorf("read the mirror's metrics: %s: %w", req.URL, err)
	}
	return n, nil
}

// readCounter finds a counter without labels in Prometheus' text format.
func readCounter(r io.Reader, name string) (uint64, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), name+" ")
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil || !(n >= 0 && n <= 1<<53) { // NaN is neither.
			return 0, fmt.Errorf("%s is %.40q, not a count", name, text)
		}
		return uint64(n), nil
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("no %s there: is it another program, or an older Kioo?", name)
}

// onLoopback gives the address at which this machine reaches what listens on address.
func onLoopback(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

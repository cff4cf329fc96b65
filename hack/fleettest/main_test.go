// Package fleettest shows with real containerds what nodes do for each other: N of them on one machine, in network
// namespaces, with a real upstream registry that is taken away from them.
//
// It holds tests alone. What it runs them on is in package fleet.
package fleettest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	// settleTime is how long a fleet may take until all know what all hold.
	settleTime = 15 * time.Second
	pullTime   = time.Minute
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kioo-fleettest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleettest:", err)
		os.Exit(1)
	}
	if err := os.Setenv(built, dir); err != nil {
		fmt.Fprintln(os.Stderr, "fleettest:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// built names the directory of the Kioo that all fleets of this package run.
const built = "KIOO_FLEETTEST_DIR"

// kioo builds Kioo, once.
func kioo(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(built)
	program := filepath.Join(dir, "kioo")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	program, err := process.Build(t.Context(), kiootest.Package, dir)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// newFleet runs a fleet for the length of a test, and shows what it logged if the test fails.
func newFleet(t *testing.T, cfg fleet.Config) *fleet.Fleet {
	t.Helper()
	if why := fleet.Unavailable(); why != "" {
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	cfg.Kioo = kioo(t)
	start := time.Now()
	f, err := fleet.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			show(t, f)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if !cfg.NoKey {
		for _, n := range f.Nodes {
			waitMembers(t, n, cfg.Nodes-1)
		}
	}
	t.Logf("%d nodes with containerd %s after %v", cfg.Nodes, f.Nodes[0].Containerd.Version(), time.Since(start))
	return f
}

func show(t *testing.T, f *fleet.Fleet) {
	for _, n := range f.Nodes {
		t.Logf("%s: end of the output of kioo:\n%s", n.Name, end(n.Log()))
		t.Logf("%s: end of the output of containerd:\n%s", n.Name, end(n.Containerd.Log()))
	}
}

func end(log string) string { return log[max(0, len(log)-12<<10):] }

// seed makes what is in an image another for each name.
func seed(name string) uint64 {
	var sum uint64
	for _, c := range name {
		sum = sum*31 + uint64(c)
	}
	return sum
}

// push gives upstream a new image of two platforms and returns its descriptor.
func push(t *testing.T, f *fleet.Fleet, name string, layers ...int64) v1.Descriptor {
	t.Helper()
	index, err := registrytest.NewIndex(seed(t.Name()+name), layers...)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := f.Upstream.Push(t.Context(), name, index)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// pull pulls within reasonable time and returns how long it took.
func pull(t *testing.T, n *fleet.Node, image string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	start := time.Now()
	if err := n.Pull(ctx, image); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return time.Since(start)
}

// metrics are a node's.
func metrics(t *testing.T, n *fleet.Node) fleet.Metrics {
	t.Helper()
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// eventually waits until ok says so.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("after %v still not: %s", within, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return time.Since(start)
}

// waitMembers waits until a node knows that many others.
func waitMembers(t *testing.T, n *fleet.Node, others int) {
	t.Helper()
	eventually(t, settleTime, fmt.Sprintf("%s knows %d others", n.Name, others), func() bool {
		return int(metrics(t, n).Sum("kioo_discovery_members", `state="live"`)) == others
	})
}

// announced is how many keys a node tells the others of.
func announced(t *testing.T, n *fleet.Node) int {
	t.Helper()
	return int(metrics(t, n).Sum("kioo_discovery_announced_keys"))
}

// waitAnnounced waits until a node has told the others of everything, and of at least that many keys.
func waitAnnounced(t *testing.T, n *fleet.Node, keys int) {
	t.Helper()
	took := eventually(t, settleTime, fmt.Sprintf("%s has announced %d keys", n.Name, keys), func() bool {
		m := metrics(t, n)
		return int(m.Sum("kioo_discovery_announced_keys")) >= keys && m.Sum("kioo_discovery_pending_keys") == 0
	})
	t.Logf("%s has announced everything after %v", n.Name, took.Round(time.Millisecond))
}

// pullAnnounced pulls an image with so many layers and waits until the others know.
func pullAnnounced(t *testing.T, n *fleet.Node, image string, layers int) {
	t.Helper()
	before := announced(t, n)
	pull(t, n, image)
	const more = 4 // Tag, index, manifest and configuration.
	waitAnnounced(t, n, before+layers+more)
}

// fetched is how many bytes of blobs a node got from a kind of source: peer or upstream.
func fetched(t *testing.T, n *fleet.Node, source string) int64 {
	t.Helper()
	return int64(metrics(t, n).Sum("kioo_flight_bytes_total", fmt.Sprintf("source=%q", source)))
}

// status asks a node's mirror for something and returns the status.
func status(t *testing.T, n *fleet.Node, f *fleet.Fleet, path string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	resp, err := n.Get(ctx, "http://"+fleet.MirrorAddr+"/v2/"+path+"?ns="+f.Upstream.Host())
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// asked tells who asked upstream: the user agents' first words, without doubles.
func asked(f *fleet.Fleet) map[string]bool {
	agents := make(map[string]bool)
	for _, r := range f.Upstream.Requests() {
		agent, _, _ := strings.Cut(r.Header.Get("User-Agent"), "/")
		agents[agent] = true
	}
	return agents
}

package loadtest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/hack/strangers"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/peer"
)

const (
	// crowd is how many connections strangers keep open to each port of members, and crowdSources where they come from.
	crowd, crowdSources = 1000, 100
	// meetTime is how long a new node may take until it serves what only another one has, its start included.
	meetTime = 30 * time.Second
)

// member gives the configuration of a Kioo that is a member at those addresses.
func member(t *testing.T, dir, key, listen, discovery, bootstrap, upstream string) *config.Config {
	t.Helper()
	cfg := kiootest.Config(dir, map[string]string{registryName: upstream})
	cfg.Peers.KeyFiles, cfg.Peers.Listen = []string{key}, []string{listen}
	cfg.Discovery.Listen = []string{discovery}
	cfg.Discovery.Bootstrap.Addresses = []string{bootstrap}
	metrics, err := kiootest.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Metrics.Listen = metrics
	return cfg
}

// TestStrangersAtTheMembersPorts keeps both ports of a node busy in all ways. A new node finds it meanwhile, and gets
// from it what upstream no longer gives; the node's own clients and its metrics go on.
func TestStrangersAtTheMembersPorts(t *testing.T) {
	needFiles(t, 2*crowd+1000)
	up := registrytest.New(t, registrytest.Config{})
	blob := pushLayers(t, up, 51, 1_000_000)[0]
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(peer.NewKey().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var addrs [2]string // Of the first node's two ports.
	for i := range addrs {
		var err error
		if addrs[i], err = kiootest.FreeAddress("127.0.0.2"); err != nil { // Where nobody takes any port that is free.
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	cfg := member(t, dir, key, addrs[0], addrs[1], addrs[1], up.URL())
	first := startKioo(t, dir, cfg)
	watchMemory(t, first)
	if err := fetch(t.Context(), client(t), blobURL(first, blob), blob); err != nil {
		t.Fatal(err)
	}
	up.Break(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	})
	for name, behaviour := range strangers.Behaviours() {
		t.Run(name, func(t *testing.T) {
			before, err := process.ReadMemory(first.PID())
			if err != nil {
				t.Fatal(err)
			}
			for _, addr := range addrs {
				r, err := strangers.Start(t.Context(), strangers.Crowd{
					To: addr, Connections: crowd, Sources: strangers.Loopback(crowdSources), Behaviour: behaviour,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Stop()
			}
			dir, began := t.TempDir(), time.Now()
			second := startKioo(t, dir, member(t, dir, key, "127.0.0.1:0", "127.0.0.1:0", addrs[1], up.URL()))
			for {
				err := fetch(t.Context(), client(t), blobURL(second, blob), blob)
				if err == nil {
					break
				}
				if time.Since(began) > meetTime {
					t.Fatalf("a new node, after %v: %v", time.Since(began), err)
				}
				time.Sleep(50 * time.Millisecond) // It was refused; the next client asks later as well.
			}
			took := time.Since(began)
			checkServed(t, first, blob)
			strangersSeen(t, cfg.Metrics.Listen)
			during, err := process.ReadMemory(first.PID())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("a new node had what another one holds after %v; the other one held %d MiB before and %d MiB meanwhile",
				took.Round(time.Millisecond), before.Anonymous>>20, during.Anonymous>>20)
		})
	}
}

// strangersSeen fails a test whose metrics can't be read, or have too many strangers.
func strangersSeen(t *testing.T, addr string) {
	t.Helper()
	c := client(t)
	c.Timeout = maxWait
	resp, err := get(t.Context(), c, fmt.Sprintf("http://%s/metrics", addr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"discovery", "peer"} {
		name := fmt.Sprintf("kioo_%s_connections{from=\"stranger\"} ", port)
		_, rest, found := strings.Cut(string(body), name)
		value, _, _ := strings.Cut(rest, "\n")
		var n float64
		if _, err := fmt.Sscan(value, &n); !found || err != nil || n > 512 {
			t.Errorf("%s is %q", name, value)
		}
	}
}

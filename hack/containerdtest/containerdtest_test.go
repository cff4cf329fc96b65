package containerdtest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPullAndRemove(t *testing.T) {
	registry := registrytest.New(t, registrytest.Config{})
	index, err := registrytest.NewIndex(1, 10_000, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Push(t.Context(), "org/app:v1", index); err != nil {
		t.Fatal(err)
	}
	// A name that nothing but the configured directory can resolve.
	const name = "registry.example.com/org/app:v1"
	certs := t.TempDir()
	hosts := filepath.Join(certs, "registry.example.com", "hosts.toml")
	if err := os.Mkdir(filepath.Dir(hosts), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "server = %q\n", registry.URL()), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, version := range containerdtest.Versions() {
		t.Run(string(version), func(t *testing.T) {
			start := time.Now()
			c := containerdtest.New(t, containerdtest.Config{Version: version, CertsDir: certs})
			t.Logf("started in %v", time.Since(start))
			images := func(want int) {
				t.Helper()
				if got, err := c.Images(t.Context()); err != nil || len(got) != want {
					t.Errorf("%d images, %v, want %d", len(got), err, want)
				}
			}
			if _, err := c.Pull(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			images(1)
			if err := c.Start(t.Context()); err == nil {
				t.Error("it started twice")
			}
			if err := c.Stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			images(1)
			out, err := c.Ctr(t.Context(), "--namespace", containerdtest.Namespace, "images", "list", "--quiet")
			if err != nil || !strings.Contains(out, name) {
				t.Errorf("ctr lists %q, %v", out, err)
			}
			c.Kill()
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
			images(0)
		})
	}
}

// TestWrapper runs a second containerd beside the first, inside of a network namespace.
func TestWrapper(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs ip, and root to make a network namespace")
	}
	outside := containerdtest.New(t, containerdtest.Config{})
	namespace := fmt.Sprint("kioo-ctd-", os.Getpid())
	if out, err := exec.Command(ip, "netns", "add", namespace).CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(ip, "netns", "delete", namespace).CombinedOutput(); err != nil {
			t.Errorf("delete network namespace: %v: %s", err, out)
		}
	})
	inside := containerdtest.New(t, containerdtest.Config{Wrapper: []string{ip, "netns", "exec", namespace}})
	for _, c := range []*containerdtest.Containerd{outside, inside} {
		if _, err := c.Images(t.Context()); err != nil {
			t.Error(err)
		}
		pids, err := exec.Command(ip, "netns", "pids", namespace).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(strings.Fields(string(pids)), fmt.Sprint(c.PID())); got != (c == inside) {
			t.Errorf("process %d is inside: %v", c.PID(), got)
		}
	}
	if err := inside.Stop(); err != nil {
		t.Error(err)
	}
}

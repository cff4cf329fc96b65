package loadtest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

const (
	registryName = "registry.example.com"
	repository   = "org/app"

	// maxMemory is what Kioo may hold at most, whatever its clients do. The program's own pages, some 40 MiB of a file
	// that the kernel can drop, come on top of that in what is resident.
	maxMemory   = 100 << 20
	maxResident = 140 << 20

	// maxWait is how long a well-behaved client may wait while others behave badly.
	maxWait = 5 * time.Second
)

// program is kioo, built for all tests by TestMain.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("load tests left out: -short")
		return
	}
	dir, err := os.MkdirTemp("", "kioo-loadtest-")
	if err == nil {
		program, err = process.Build(context.Background(), kiootest.Package, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(dir) // What is wrong has been said.
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // It is in the temporary directory anyhow.
		os.Exit(code)
	}))
}

// startKioo runs Kioo for the length of a test. A test may end it before.
func startKioo(t *testing.T, dir string, cfg *config.Config) *kiootest.Kioo {
	t.Helper()
	kioo, err := kiootest.Start(t.Context(), program, dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kioo.Close(); err != nil && !t.Failed() {
			t.Errorf("kioo ended with %v", err)
		}
		if log := kioo.Log(); t.Failed() {
			t.Logf("end of the output of kioo:\n%s", log[max(0, len(log)-8000):])
		}
	})
	return kioo
}

// pushLayers pushes an image and returns its layers.
func pushLayers(t *testing.T, up *registrytest.Registry, seed uint64, sizes ...int64) []v1.Descriptor {
	t.Helper()
	img, err := registrytest.NewImage(seed, v1.Platform{OS: "linux", Architecture: "amd64"}, sizes...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Push(t.Context(), fmt.Sprintf("%s:seed-%d", repository, seed), img); err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Layers
}

func blobURL(kioo *kiootest.Kioo, d v1.Descriptor) string {
	return fmt.Sprintf("%s/v2/%s/blobs/%s?ns=%s", kioo.URL(), repository, d.Digest, registryName)
}

// client makes connections of its own for each request, so that as many are open as clients are at work.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, ReadBufferSize: 64 << 10}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func get(ctx context.Context, c *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return resp, nil
}

// fetch reads a blob and checks its digest.
func fetch(ctx context.Context, c *http.Client, url string, d v1.Descriptor) error {
	resp, err := get(ctx, c, url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, n, err := v1.SHA256(resp.Body)
	if err != nil {
		return err
	}
	if got != d.Digest || n != d.Size {
		return fmt.Errorf("%d bytes with digest %v, want %d of %v", n, got, d.Size, d.Digest)
	}
	return nil
}

// checkServed fails if a well-behaved client has to wait for a blob that Kioo holds.
func checkServed(t *testing.T, kioo *kiootest.Kioo, d v1.Descriptor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	if err := fetch(ctx, client(t), blobURL(kioo, d), d); err != nil {
		t.Errorf("a well-behaved client: %v", err)
	}
}

// watchMemory looks at what Kioo holds until the test ends, and fails the test if that is ever too much.
func watchMemory(t *testing.T, kioo *kiootest.Kioo) {
	t.Helper()
	stop, stopped := make(chan struct{}), make(chan int64)
	go func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		var most int64
		for {
			if mem, err := process.ReadMemory(kioo.PID()); err == nil { // Else it has ended.
				most = max(most, mem.Anonymous)
			}
			select {
			case <-stop:
				stopped <- most
				return
			case <-ticker.C:
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		most := <-stopped
		mem, err := process.ReadMemory(kioo.PID())
		if err != nil {
			t.Errorf("kioo is gone: %v", err)
			return
		}
		t.Logf("kioo: at most %d MiB resident, %d MiB of them anonymous", mem.Peak>>20, most>>20)
		if mem.Peak > maxResident || most > maxMemory || most == 0 {
			t.Errorf("kioo held %d bytes, %d of them anonymous; at most %d are allowed", mem.Peak, most, maxMemory)
		}
	})
}

// drain reads whatever comes and tells how much.
func drain(r io.Reader) int64 {
	n, _ := io.Copy(io.Discard, r) // The end, however it comes, is the point.
	return n
}

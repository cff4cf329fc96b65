package loadtest

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	herd     = 200
	herdBlob = 200_000_000
	herdTime = 5 * time.Minute
)

// TestHerd lets many clients ask for a blob that nobody holds, all before its first byte arrives.
func TestHerd(t *testing.T) {
	clients, err := process.Build(t.Context(), "./hack/loadtest/herd", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	up := registrytest.New(t, registrytest.Config{})
	blob := pushLayers(t, up, 21, herdBlob)[0]
	file := filepath.Join(up.Storage(), "docker/registry/v2/blobs/sha256", blob.Digest.Hex[:2], blob.Digest.Hex, "data")

	dir := t.TempDir()
	kioo := startKioo(t, dir, kiootest.Config(dir, map[string]string{registryName: up.URL()}))
	watchMemory(t, kioo)

	asked := make(chan struct{})
	up.Break(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-asked:
				next.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		})
	})
	p, err := process.Start(process.Config{Path: clients, Args: []string{
		"-url", blobURL(kioo, blob), "-file", file, "-digest", blob.Digest.String(),
		"-clients", fmt.Sprint(herd), "-timeout", herdTime.String(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if _, err := p.WaitLog(t.Context(), regexp.MustCompile(`all have asked`)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	close(asked)
	<-p.Done() // It has a deadline of its own.
	if err := p.Err(); err != nil {
		t.Fatalf("herd: %v\n%s", err, p.Log())
	}
	t.Logf("%d clients read %d MB each in %v", herd, herdBlob/1_000_000, time.Since(start).Round(time.Millisecond))
	if sent := up.BlobBytes(blob.Digest.String()); sent != blob.Size {
		t.Errorf("upstream sent %d bytes of a blob of %d", sent, blob.Size)
	}
	if n := len(up.BlobRequests(blob.Digest.String())); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
}

package loadtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	herd     = 200
	herdBlob = 200_000_000
	herdTime = 5 * time.Minute
)

// TestHerd lets many clients ask for a blob that nobody holds, all before its first byte arrives.
func TestHerd(t *testing.T) {
	up := registrytest.New(t, registrytest.Config{})
	blob := pushLayers(t, up, 21, herdBlob)[0]
	// Comparing with the bytes themselves says the same as 200 times the digest, and leaves the processor to Kioo.
	want := download(t, up, blob.Digest.String())

	dir := t.TempDir()
	kioo := startKioo(t, dir, kiootest.Config(dir, map[string]string{registryName: up.URL()}))
	watchMemory(t, kioo)

	var asked sync.WaitGroup
	asked.Add(herd)
	up.Break(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Wait()
			next.ServeHTTP(w, r)
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), herdTime)
	defer cancel()
	c := client(t)
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i := range herd {
		group.Go(func() error {
			trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked.Done() }}
			resp, err := get(httptrace.WithClientTrace(ctx, trace), c, blobURL(kioo, blob))
			if err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			defer resp.Body.Close()
			if err := compare(resp.Body, want); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clients read %d MB each in %v", herd, herdBlob/1_000_000, time.Since(start).Round(time.Millisecond))
	if sent := up.BlobBytes(blob.Digest.String()); sent != blob.Size {
		t.Errorf("upstream sent %d bytes of a blob of %d", sent, blob.Size)
	}
	if n := len(up.BlobRequests(blob.Digest.String())); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
}

// download reads a blob from the upstream itself, uncounted, and checks it.
func download(t *testing.T, up *registrytest.Registry, digest string) []byte {
	t.Helper()
	resp, err := get(t.Context(), client(t), fmt.Sprintf("http://%s/v2/%s/blobs/%s", up.DirectHost(), repository, digest))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := sha256Of(data); got != digest {
		t.Fatalf("upstream's own blob has digest %s, want %s", got, digest)
	}
	return data
}

// compare fails at the first byte that differs, is missing or too many.
func compare(r io.Reader, want []byte) error {
	buf := make([]byte, 256<<10)
	var n int
	for {
		m, err := r.Read(buf)
		if m > len(want)-n || !bytes.Equal(buf[:m], want[n:n+m]) {
			return fmt.Errorf("wrong bytes between %d and %d", n, n+m)
		}
		n += m
		if err == io.EOF && n == len(want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
}

package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

const (
	bufferSize = 1 << 20 // As containerd writes to its store.

	// fetchTime bounds one fetch: at a shaped gigabit, the largest takes ten seconds.
	fetchTime = 5 * time.Minute

	// parallelLayers is how many layers containerd fetches at once by default.
	parallelLayers = 3
)

// client fetches. Its connections are its own: no comparison begins with another's.
type client struct {
	http *http.Client
	tr   *http.Transport
}

func newClient() *client { return newClientOf(nil) }

// newClientOf makes a client that trusts these authorities alone.
func newClientOf(authorities *x509.CertPool) *client {
	tr := &http.Transport{
		ReadBufferSize: 64 << 10, MaxIdleConnsPerHost: 8, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS13},
	}
	return &client{http: &http.Client{Transport: tr, Timeout: fetchTime}, tr: tr}
}

func (c *client) close() { c.tr.CloseIdleConnections() }

// fetched is what one fetch showed.
type fetched struct {
	first time.Duration // until the first byte of the body
	whole time.Duration
}

// fetch reads a URL of which it knows what comes, into w if that is not nil.
func (c *client) fetch(ctx context.Context, url string, size int64, w io.Writer) (fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fetched{}, err
	}
	req.Header.Set("Accept", string(types.OCIManifestSchema1)+", */*")
	start := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return fetched{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fetched{}, fmt.Errorf("get %s: status %s", url, resp.Status)
	}
	var (
		f   fetched
		n   int64
		buf = make([]byte, bufferSize)
	)
	for err == nil {
		var m int
		m, err = resp.Body.Read(buf)
		if n == 0 && m > 0 {
			f.first = time.Since(start)
		}
		n += int64(m)
		if w == nil {
			continue
		}
		if _, werr := w.Write(buf[:m]); werr != nil {
			return fetched{}, fmt.Errorf("get %s: %w", url, werr)
		}
	}
	f.whole = time.Since(start)
	if err != io.EOF || n != size {
		return fetched{}, fmt.Errorf("get %s: %d of %d bytes: %w", url, n, size, err)
	}
	return f, nil
}

// verified fetches and checks the digest, as every client of a registry does.
func (c *client) verified(ctx context.Context, url string, d v1.Descriptor) (fetched, error) {
	return c.verifiedInto(ctx, url, d, io.Discard)
}

// verifiedInto is verified with the bytes written to w.
func (c *client) verifiedInto(ctx context.Context, url string, d v1.Descriptor, w io.Writer) (fetched, error) {
	h := sha256.New()
	f, err := c.fetch(ctx, url, d.Size, io.MultiWriter(w, h))
	if err != nil {
		return fetched{}, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != d.Digest.Hex {
		return fetched{}, fmt.Errorf("get %s: its digest is %s", url, got)
	}
	return f, nil
}

// stored fetches into a file, checks the digest and removes the file: all that containerd does with a blob, but
// for keeping it.
func (c *client) stored(ctx context.Context, url string, d v1.Descriptor, dir string) (_ fetched, err error) {
	file, err := os.CreateTemp(dir, "stored-")
	if err != nil {
		return fetched{}, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	return c.verifiedInto(ctx, url, d, file)
}

// pull fetches an image as containerd does: the manifest, the configuration, then three layers at once.
func (c *client) pull(ctx context.Context, from source, img image) (time.Duration, error) {
	start := time.Now()
	if _, err := c.verified(ctx, from.manifest(img.manifest), img.manifest); err != nil {
		return 0, err
	}
	if _, err := c.verified(ctx, from.blob(img.blobs[0]), img.blobs[0]); err != nil {
		return 0, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for _, layer := range img.blobs[1:] {
		group.Go(func() error {
			_, err := c.verified(ctx, from.blob(layer), layer)
			return err
		})
	}
	err := group.Wait()
	return time.Since(start), err
}

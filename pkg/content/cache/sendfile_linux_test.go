package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
)

// TestSendfile proves that a held blob goes from the page cache to the socket inside the kernel: a child process in
// which every read of the blob's file fails serves it all the same, through a real HTTP server, and no longer does
// once the writer hides its ReadFrom.
func TestSendfile(t *testing.T) {
	out, err := command(t, "sendfile", t.TempDir()).CombinedOutput()
	if bytes.Contains(out, []byte("SKIP")) {
		t.Skipf("this kernel has no seccomp for us: %s", out)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func sendfileChild(dir string) (err error) {
	c, err := cache.Open(cache.Config{Dir: dir, MaxBytes: 1 << 30})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	body := contenttest.Body(1, 20<<20+7)
	desc := descriptor("application/octet-stream", body)
	ctx := context.Background()
	if err := c.Put(ctx, "", desc, body); err != nil {
		return err
	}
	b, err := c.Open(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer b.Close()
	fds, err := contenttest.OpenFiles(blobPath(dir, desc.Digest))
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("the blob's descriptors are %v: %v", fds, err)
	}
	switch err := contenttest.RefuseReads(fds[0]); {
	case errors.Is(err, errors.ErrUnsupported):
		fmt.Println("SKIP", err)
		return nil
	case err != nil:
		return err
	}
	return serveUnread(b, desc.Digest)
}

// serveUnread serves a blob whose file can't be read.
func serveUnread(b content.Blob, dgst digest.Digest) error {
	failed := make(chan error, 10) // Transports may ask again.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(b.Size()))
		var to io.Writer = w
		if r.URL.Path == "/copied" {
			to = struct{ io.Writer }{w}
		}
		_, err := b.CopyRange(r.Context(), to, 0, b.Size())
		failed <- err
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	digester := dgst.Algorithm().Digester()
	_, err = io.Copy(digester.Hash(), resp.Body)
	if err = errors.Join(err, <-failed); err != nil || digester.Digest() != dgst {
		return fmt.Errorf("served with digest %s instead of %s: %w", digester.Digest(), dgst, err)
	}

	// The control: without sendfile it does not work, so it was sendfile that did.
	resp, err = server.Client().Get(server.URL + "/copied")
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if refused := <-failed; err == nil || !errors.Is(refused, contenttest.ErrReadRefused) {
		return fmt.Errorf("a copying server gave the client %v and its handler %v, want %v", err, refused,
			contenttest.ErrReadRefused)
	}

	conn, peer := net.Pipe() // No socket at all: the kernel can't help, and that must show as an error too.
	defer conn.Close()
	defer peer.Close()
	if _, err := b.CopyRange(context.Background(), conn, 0, b.Size()); !errors.Is(err, contenttest.ErrReadRefused) {
		return fmt.Errorf("copying to a pipe in memory gave %v, want %v", err, contenttest.ErrReadRefused)
	}
	return nil
}

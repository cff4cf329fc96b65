package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
)

// childVariable is set in a copy of this test binary that may make itself unable to read.
const childVariable = "KIOO_REGISTRY_TEST_CHILD"

// TestSendfile proves that blobs go from the page cache to the socket inside the kernel, through all of the API: in a
// process in which every read of the blob's file fails, it is served all the same, and no longer once the server's
// writer hides its ReadFrom.
func TestSendfile(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *unread){"held": sendHeld, "flight": sendFlight} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(childVariable) == "" {
				runAlone(t)
				return
			}
			dir := t.TempDir()
			backend := &unread{dir: dir}
			var handler http.Handler
			s := newStack(t, options{
				cacheConfig: cache.Config{Dir: dir},
				registry: func(cfg *registry.Config) {
					backend.Backend, cfg.Backend = cfg.Backend, backend
					handler = registry.New(*cfg)
				},
			})
			backend.t, backend.stack, backend.body = t, s, pattern(20<<20+7)
			backend.digest = s.remote.putBlob("org/app", backend.body)
			t.Cleanup(backend.close)
			test(t, backend)
			backend.checkCopied(handler)
		})
	}
}

// runAlone runs the same test in a process of its own.
func runAlone(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"=1")
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("%v: %s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("the child was skipped: %s", out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Fatalf("the child ran something else: %s", out)
	}
}

func sendHeld(t *testing.T, u *unread) {
	u.stack.get(t, blobPath("org/app", u.digest)).expect(t, 200)
	u.stack.heldSoon(t, u.digest)
	u.refuse = true
	u.checkSent()
	if _, ok := u.opened.(*content.File); !ok {
		t.Errorf("the answer was a %T, and not a file of the cache", u.opened)
	}
}

// sendFlight has the answer wait until the flight that it is of is over: it still has the spool's file.
func sendFlight(t *testing.T, u *unread) {
	u.refuse = true
	u.checkSent()
	if _, ok := u.opened.(content.Arriving); !ok {
		t.Errorf("the answer was a %T, and not of a flight", u.opened)
	}
}

// unread is a backend whose blob can't be read any more once it has answered with it. It then answers with the same
// open blob for ever, because another file under the number of its descriptor could not be read either.
type unread struct {
	registry.Backend
	t      *testing.T
	dir    string
	stack  *stack
	digest digest.Digest
	body   []byte
	refuse bool
	answer *mirror.Answer
	opened content.Blob
	unable error // Why reads can't be refused here.
}

// checkSent has the real server send the blob.
func (u *unread) checkSent() {
	u.t.Helper()
	g := u.stack.get(u.t, blobPath("org/app", u.digest))
	if u.unable != nil {
		u.t.Skipf("this kernel has no seccomp for us: %v", u.unable)
	}
	if g.expect(u.t, 200); !bytes.Equal(g.body, u.body) {
		u.t.Errorf("%d bytes that are not the blob", len(g.body))
	}
}

// checkCopied is the control: without sendfile it does not work, so it was sendfile that did.
func (u *unread) checkCopied(handler http.Handler) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL + blobPath("org/app", u.digest))
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil || resp.StatusCode != http.StatusOK || n > 4096 {
		u.t.Errorf("a server that copies sent %d bytes with status %d, %v", n, resp.StatusCode, err)
	}
	u.checkSent() // And it was not the blob.
}

func (u *unread) Blob(
	ctx context.Context, ref reference.Reference, resumed bool, origin upstream.Origin,
) (*mirror.Answer, error) {
	if u.answer != nil {
		return u.answer, nil
	}
	a, err := u.Backend.Blob(ctx, ref, resumed, origin)
	if err != nil || !u.refuse {
		return a, err
	}
	u.opened, u.answer = a.Blob, a
	if arriving, ok := a.Blob.(content.Arriving); ok {
		if err := arriving.Ready(ctx, a.Blob.Size()-1); err != nil {
			return nil, err
		}
		a.Blob = keptArriving{arriving}
	} else {
		a.Blob = kept{a.Blob}
	}
	u.stack.heldSoon(u.t, u.digest)
	return a, u.refuseReads()
}

// refuseReads waits until nobody but the answer has the file open. Who closed it later, as a flight does that has just
// kept it, would leave the refused number to the next connection.
func (u *unread) refuseReads() error {
	var fds []uintptr
	for range 1000 {
		var err error
		if fds, err = contenttest.OpenFiles(filepath.Join(u.dir, "blobs", "sha256", u.digest.Encoded())); err != nil {
			return err
		}
		if len(fds) == 1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if len(fds) != 1 {
		return fmt.Errorf("the blob's descriptors are %v, want one", fds)
	}
	err := contenttest.RefuseReads(fds[0])
	if errors.Is(err, errors.ErrUnsupported) {
		u.unable = err
		return nil
	}
	return err
}

func (u *unread) close() {
	if u.opened != nil {
		if err := u.opened.Close(); err != nil {
			u.t.Error(err)
		}
	}
}

type kept struct{ content.Blob }

func (kept) Close() error { return nil }

type keptArriving struct{ content.Arriving }

func (keptArriving) Close() error { return nil }

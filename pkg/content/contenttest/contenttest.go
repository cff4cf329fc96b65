// Package contenttest holds the conformance suite that every store of blobs must pass, and a way to prove that a
// store's bytes go from file to socket inside the kernel.
//
// It is for tests alone. What a store is, package content says.
package contenttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// Fixture is a fresh store, and what a test has to be able to do to it behind its interface.
type Fixture struct {
	Store content.Store

	// Put makes the store hold body under its sha256 digest, with that media type where the store knows any. When it
	// returns, the store knows.
	Put func(t *testing.T, mediaType string, body []byte)

	// Remove makes the store hold a blob no longer, in the rudest way that happens in production. Nil where nothing
	// can.
	Remove func(t *testing.T, dgst digest.Digest)

	// SetTag makes a store that is a content.TagStore know a tag. Nil for other stores.
	SetTag func(t *testing.T, ref reference.Reference, tag content.Tag)
}

// Suite runs all tests against fresh stores. A store that is a content.TagStore is tested as that too.
func Suite(t *testing.T, fresh func(t *testing.T) Fixture) {
	for name, test := range map[string]func(*testing.T, Fixture){
		"Miss":                testMiss,
		"Whole":               testWhole,
		"Ranges":              testRanges,
		"RangesOutside":       testRangesOutside,
		"Writers":             testWriters,
		"WriterFails":         testWriterFails,
		"ContextEnds":         testContextEnds,
		"ContextEndedBefore":  testContextEndedBefore,
		"RemovedWhileReading": testRemovedWhileReading,
		"ConcurrentReaders":   testConcurrentReaders,
		"ManyOpenOfOne":       testManyOpenOfOne,
		"MediaTypes":          testMediaTypes,
		"Tags":                testTags,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// Body gives size bytes that look random and are the same for the same seed.
func Body(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	body := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(body) // It never fails.
	return body
}

func hold(t *testing.T, f Fixture, body []byte) digest.Digest {
	t.Helper()
	f.Put(t, "application/vnd.oci.image.layer.v1.tar+gzip", body)
	return digest.FromBytes(body)
}

func open(t *testing.T, s content.Store, dgst digest.Digest) content.Blob {
	t.Helper()
	b, err := s.Open(t.Context(), dgst)
	if err != nil {
		t.Fatalf("open %s: %v", dgst, err)
	}
	t.Cleanup(func() { closeBlob(t, b) })
	return b
}

func closeBlob(t *testing.T, b io.Closer) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// plain is a writer with no method but Write, so that nothing takes a short cut.
type plain struct{ w io.Writer }

func (p plain) Write(b []byte) (int, error) { return p.w.Write(b) }

func readRange(t *testing.T, b content.Blob, off, n int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	written, err := b.CopyRange(t.Context(), plain{&buf}, off, n)
	if err != nil || written != n || int64(buf.Len()) != n {
		t.Fatalf("CopyRange(%d, %d) gave %d, %v and wrote %d bytes", off, n, written, err, buf.Len())
	}
	return buf.Bytes()
}

func testMiss(t *testing.T, f Fixture) {
	hold(t, f, []byte("something else"))
	for _, dgst := range []digest.Digest{
		digest.FromString("never put"),
		digest.SHA512.FromString("something else"),
		"", "sha256", "sha256:", "sha256:../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e",
	} {
		b, err := f.Store.Open(t.Context(), dgst)
		if err == nil {
			closeBlob(t, b)
		}
		if !errors.Is(err, content.ErrNotFound) {
			t.Errorf("Open(%q) gave %v, want ErrNotFound", dgst, err)
		}
	}
}

func testWhole(t *testing.T, f Fixture) {
	for i, size := range []int{0, 1, 4095, 4096, 1 << 20, 3<<20 + 17} {
		body := Body(uint64(i), size)
		b := open(t, f.Store, hold(t, f, body))
		if b.Size() != int64(size) {
			t.Errorf("blob of %d bytes has size %d", size, b.Size())
		}
		for range 2 { // A blob can be read again.
			if !bytes.Equal(readRange(t, b, 0, int64(size)), body) {
				t.Errorf("blob of %d bytes reads differently", size)
			}
		}
	}
}

func testRanges(t *testing.T, f Fixture) {
	body := Body(1, 2<<20+5)
	b := open(t, f.Store, hold(t, f, body))
	size := int64(len(body))
	for _, r := range [][2]int64{
		{0, 0}, {0, 1}, {size - 1, 1}, {size, 0}, {17, 0}, {1, size - 1}, {size - 5, 5}, {1 << 20, 1 << 20}, {4095, 2},
	} {
		if got := readRange(t, b, r[0], r[1]); !bytes.Equal(got, body[r[0]:r[0]+r[1]]) {
			t.Errorf("range of %d bytes from %d reads differently", r[1], r[0])
		}
	}
}

func testRangesOutside(t *testing.T, f Fixture) {
	body := Body(2, 1000)
	b := open(t, f.Store, hold(t, f, body))
	for _, r := range [][2]int64{
		{-1, 1}, {0, -1}, {-1, 0}, {0, 1001}, {1000, 1}, {1001, 0}, {500, 501},
		{1, math.MaxInt64}, {math.MaxInt64, 1}, {math.MaxInt64, math.MaxInt64}, {math.MinInt64, math.MinInt64},
	} {
		var buf bytes.Buffer
		if n, err := b.CopyRange(t.Context(), &buf, r[0], r[1]); err == nil || n != 0 || buf.Len() != 0 {
			t.Errorf("range of %d bytes from %d gave %d, %v and wrote %d bytes", r[1], r[0], n, err, buf.Len())
		}
	}
	if !bytes.Equal(readRange(t, b, 0, 1000), body) {
		t.Error("blob reads differently after ranges were refused")
	}
}

// testWriters compares what arrives through a socket, through a real HTTP server and through a plain writer.
func testWriters(t *testing.T, f Fixture) {
	body := Body(3, 5<<20+123)
	dgst := hold(t, f, body)
	off, n := int64(777), int64(5<<20-1000)
	want := body[off : off+n]

	if got := readRange(t, open(t, f.Store, dgst), off, n); !bytes.Equal(got, want) {
		t.Error("plain writer got other bytes")
	}

	b := open(t, f.Store, dgst)
	got, err := throughSocket(t, func(conn net.Conn) error {
		written, err := b.CopyRange(t.Context(), conn, off, n)
		if err == nil && written != n {
			t.Errorf("CopyRange wrote %d bytes of %d", written, n)
		}
		return err
	})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("socket got %d bytes of %d, or others: %v", len(got), n, err)
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := f.Store.Open(r.Context(), dgst)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer b.Close()
		if _, err := b.CopyRange(r.Context(), w, off, n); err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("HTTP client got %d bytes of %d, or others: %v", len(got), n, err)
	}
}

// throughSocket gives what send sends through a TCP connection.
func throughSocket(t *testing.T, send func(net.Conn) error) ([]byte, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sent := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			err = errors.Join(send(conn), conn.Close())
		}
		sent <- err
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	return got, errors.Join(err, <-sent)
}

var errWriter = errors.New("the writer failed")

// failing accepts a number of bytes, and fails then.
type failing struct{ left int }

func (w *failing) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	w.left -= n
	if n < len(b) {
		return n, errWriter
	}
	return n, nil
}

func testWriterFails(t *testing.T, f Fixture) {
	body := Body(4, 3<<20)
	b := open(t, f.Store, hold(t, f, body))
	for _, accepts := range []int{0, 1, 1<<20 + 7} {
		n, err := b.CopyRange(t.Context(), &failing{left: accepts}, 0, b.Size())
		if !errors.Is(err, errWriter) || n != int64(accepts) {
			t.Errorf("writer that fails after %d bytes: CopyRange gave %d, %v", accepts, n, err)
		}
	}
	if !bytes.Equal(readRange(t, b, 0, b.Size()), body) {
		t.Error("blob reads differently after a writer failed")
	}
}

// cancelling ends a context once it was written to.
type cancelling struct {
	buf    bytes.Buffer
	cancel context.CancelFunc
}

func (w *cancelling) Write(b []byte) (int, error) {
	w.cancel()
	return w.buf.Write(b)
}

func testContextEnds(t *testing.T, f Fixture) {
	body := Body(5, 8<<20)
	b := open(t, f.Store, hold(t, f, body))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := cancelling{cancel: cancel}
	n, err := b.CopyRange(ctx, plain{&w}, 0, b.Size())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("CopyRange gave %v, want context.Canceled", err)
	}
	if n != int64(w.buf.Len()) || n == 0 || n > 4<<20 {
		t.Errorf("CopyRange says %d bytes and wrote %d of %d after its context had ended", n, w.buf.Len(), len(body))
	}
	if !bytes.Equal(w.buf.Bytes(), body[:n]) {
		t.Error("the bytes before the context ended are wrong")
	}
}

func testContextEndedBefore(t *testing.T, f Fixture) {
	dgst := hold(t, f, Body(6, 100))
	b := open(t, f.Store, dgst)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var buf bytes.Buffer
	if n, err := b.CopyRange(ctx, &buf, 0, 100); !errors.Is(err, context.Canceled) || n != 0 || buf.Len() != 0 {
		t.Errorf("CopyRange gave %d, %v and wrote %d bytes, though its context had ended", n, err, buf.Len())
	}
	if b, err := f.Store.Open(ctx, dgst); err == nil {
		closeBlob(t, b) // A store may be faster than that.
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("Open gave %v, want nil or context.Canceled", err)
	}
}

func testRemovedWhileReading(t *testing.T, f Fixture) {
	if f.Remove == nil {
		t.Skip("nothing removes blobs from this store")
	}
	body := Body(7, 3<<20)
	dgst := hold(t, f, body)
	b := open(t, f.Store, dgst)
	half := b.Size() / 2
	got := readRange(t, b, 0, half)
	f.Remove(t, dgst)
	got = append(got, readRange(t, b, half, b.Size()-half)...)
	if !bytes.Equal(got, body) {
		t.Error("blob reads differently after it was removed")
	}
	if b, err := f.Store.Open(t.Context(), dgst); !errors.Is(err, content.ErrNotFound) {
		if err == nil {
			closeBlob(t, b)
		}
		t.Errorf("Open gave %v after the blob was removed, want ErrNotFound", err)
	}
	hold(t, f, body)
	if !bytes.Equal(readRange(t, open(t, f.Store, dgst), 0, int64(len(body))), body) {
		t.Error("blob reads differently after it came back")
	}
}

func testConcurrentReaders(t *testing.T, f Fixture) {
	var bodies [][]byte
	for i := range 4 {
		body := Body(uint64(100+i), 300_000+i)
		hold(t, f, body)
		bodies = append(bodies, body)
	}
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for range 15 {
				body := bodies[random.IntN(len(bodies))]
				off := random.IntN(len(body))
				n := random.IntN(len(body) - off + 1)
				b, err := f.Store.Open(t.Context(), digest.FromBytes(body))
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				var buf bytes.Buffer
				_, err = b.CopyRange(t.Context(), &buf, int64(off), int64(n))
				closeBlob(t, b)
				if err != nil || !bytes.Equal(buf.Bytes(), body[off:off+n]) {
					t.Errorf("range of %d bytes from %d reads differently: %v", n, off, err)
					return
				}
			}
		})
	}
	readers.Wait()
}

// testManyOpenOfOne has several blobs of one digest open, which must not share an offset.
func testManyOpenOfOne(t *testing.T, f Fixture) {
	body := Body(8, 300_000)
	dgst := hold(t, f, body)
	var blobs []content.Blob
	for range 5 {
		blobs = append(blobs, open(t, f.Store, dgst))
	}
	for i := range blobs {
		for j, b := range blobs {
			off := int64(i*50_000 + j)
			if !bytes.Equal(readRange(t, b, off, 1000), body[off:off+1000]) {
				t.Errorf("blob %d reads differently in round %d", j, i)
			}
		}
	}
}

package flight_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func randomBody(n int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	body := make([]byte, n)
	_, _ = rng.Read(body)
	return body
}

type fixture struct {
	*flight.Group
	cache *cache.Cache
}

func setup(t *testing.T, change func(*flight.Config)) fixture {
	t.Helper()
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 30, Log: testr.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	cfg := flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			return c.Create(owner, dgst, size)
		},
		Held: func(dgst digest.Digest) bool {
			blob, err := c.Open(t.Context(), dgst)
			return err == nil && blob.Close() == nil
		},
		Log: testr.New(t),
	}
	if change != nil {
		change(&cfg)
	}
	g := flight.New(cfg)
	t.Cleanup(func() {
		g.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return fixture{g, c}
}

func read(ctx context.Context, r *flight.Reader, off, n int64) ([]byte, error) {
	var buf bytes.Buffer
	_, err := r.CopyRange(ctx, &buf, off, n)
	return buf.Bytes(), err
}

func TestManyReadersOneCopy(t *testing.T) {
	f := setup(t, nil)
	body := randomBody(5 << 20)
	dgst := digest.FromBytes(body)
	src := &origin{name: "a", body: body}
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			off := int64(i%3) * 1000
			got := &comparer{want: body[off:]}
			n, err := copyTo(t.Context(), f, dgst, src, got, off)
			if err != nil || n != int64(len(body))-off || got.differs {
				t.Errorf("reader %d: %d bytes, right: %v, %v", i, n, !got.differs, err)
			}
		})
	}
	group.Wait()
	if sent, _ := src.counted(); sent != int64(len(body)) {
		t.Errorf("source sent %d bytes of %d", sent, len(body))
	}
	blob := eventuallyHeld(t, f.cache, dgst)
	defer blob.Close()
	if got, err := content.ReadAll(t.Context(), blob, 1<<30); err != nil || !bytes.Equal(got, body) {
		t.Errorf("kept blob: %d bytes, %v", len(got), err)
	}
}

// copyTo reads a blob from off on as the mirror does: by flight, or from the store if it arrives meanwhile.
func copyTo(ctx context.Context, f fixture, dgst digest.Digest, src flight.Source, w io.Writer, off int64) (int64, error) {
	var blob content.Blob
	blob, err := f.Join(ctx, "", "", dgst, flight.SizeHint{}, src)
	if errors.Is(err, flight.ErrHeld) {
		blob, err = f.cache.Open(ctx, dgst)
	}
	if err != nil {
		return 0, err
	}
	defer blob.Close()
	return blob.CopyRange(ctx, w, off, blob.Size()-off)
}

// comparer is a writer that compares, so that many readers need no memory.
type comparer struct {
	want    []byte
	differs bool
}

func (c *comparer) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(c.want, p) {
		c.differs = true
		return len(p), nil
	}
	c.want = c.want[len(p):]
	return len(p), nil
}

// eventuallyHeld waits for the commit, which comes after the readers have their bytes.
func eventuallyHeld(t *testing.T, c *cache.Cache, dgst digest.Digest) content.Blob {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		blob, err := c.Open(t.Context(), dgst)
		if err == nil {
			return blob
		}
		if time.Now().After(deadline) {
			t.Fatalf("blob is not kept: %v", err)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, size := range []int{0, 1, 32 << 10, 32<<10 + 1, 64<<10 - 1, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := setup(t, nil)
			body := randomBody(size)
			r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.Hint(int64(size)), &origin{name: "a", body: body})
			if errors.Is(err, flight.ErrHeld) { // So fast it may be.
				blob, got := eventuallyHeld(t, f.cache, digest.FromBytes(body)), new(bytes.Buffer)
				if _, err := blob.CopyRange(t.Context(), got, 0, blob.Size()); err != nil || !bytes.Equal(got.Bytes(), body) {
					t.Errorf("%d bytes are kept, %v", got.Len(), err)
				}
				blob.Close()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := r.Ready(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// TestRangesAhead has a reader far ahead of the first stream: it gets its bytes without what lies before, and nothing
// is sent twice.
func TestRangesAhead(t *testing.T) {
	f := setup(t, nil)
	body := randomBody(40 << 20)
	src := &origin{name: "a", body: body, gate: make(chan struct{})}
	stop := make(chan struct{})
	defer close(stop)
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		got, err := read(t.Context(), r, 30<<20, 1<<20)
		if err == nil && !bytes.Equal(got, body[30<<20:31<<20]) {
			err = errors.New("wrong bytes")
		}
		done <- err
	}()
	reads := 0
	pace := time.NewTicker(time.Millisecond) // So that a busy machine has the time to start the second stream.
	defer pace.Stop()
	for waiting := true; waiting; {
		select {
		case src.gate <- struct{}{}:
			reads++
			<-pace.C
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			waiting = false
		}
	}
	// One mebibyte is 16 reads; the first stream may have had as many, and then some for the scheduling. In order it
	// would be 496.
	if reads > 400 {
		t.Errorf("a mebibyte ahead took %d reads of 64 KiB", reads)
	}
	go func() {
		for {
			select {
			case src.gate <- struct{}{}:
			case <-stop:
				return
			}
		}
	}()
	if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("whole: %d bytes, %v", len(got), err)
	}
	if sent, opens := src.counted(); sent != int64(len(body)) || opens < 2 {
		t.Errorf("source sent %d bytes of %d in %d streams", sent, len(body), opens)
	}
}

func TestNoRangesMeansOneStream(t *testing.T) {
	f := setup(t, nil)
	body := randomBody(40 << 20)
	src := &origin{name: "a", body: body, silent: true}
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := read(t.Context(), r, 30<<20, 10<<20); err != nil || !bytes.Equal(got, body[30<<20:]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, opens := src.counted(); opens != 1 {
		t.Errorf("%d streams from a source without ranges", opens)
	}
}

func TestMismatchIsWithheldAndForgotten(t *testing.T) {
	f := setup(t, nil)
	body := randomBody(1 << 20)
	wrong := bytes.Clone(body)
	wrong[5] ^= 1
	gate := make(chan struct{}) // Until somebody is there to read it.
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, &origin{name: "liar", body: wrong, gate: gate})
	if err != nil {
		t.Fatal(err)
	}
	close(gate)
	got, err := read(t.Context(), r, 0, r.Size())
	if !errors.Is(err, flight.ErrMismatch) || len(got) >= len(body) {
		t.Errorf("got %d bytes of %d and error %v", len(got), len(body), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.cache.Open(t.Context(), digest.FromBytes(body)); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("the cache has it: %v", err)
	}
	gate = make(chan struct{})
	r, err = f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, &origin{name: "liar", body: body, gate: gate})
	if err != nil {
		t.Fatal(err)
	}
	close(gate)
	defer r.Close()
	if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
		t.Errorf("second try: %d bytes, %v", len(got), err)
	}
}

func TestSources(t *testing.T) {
	body := randomBody(3 << 20)
	longer := append(bytes.Clone(body), 1)
	for _, test := range []struct {
		name   string
		first  *origin
		second *origin
		hint   int64
		fails  bool
	}{
		{name: "second goes on where the first broke", first: &origin{body: body, breaks: 1 << 20}, second: &origin{body: body}, hint: -1},
		{name: "second is asked when the first has nothing", first: &origin{}, second: &origin{body: body}, hint: -1},
		{name: "a source of another size is passed over", first: &origin{body: longer, untrusted: true}, second: &origin{body: body}, hint: int64(len(body))},
		{name: "short of what it says", first: &origin{body: body[:1<<20], size: int64(len(body))}, second: &origin{body: body}, hint: -1},
		{name: "both break", first: &origin{body: body, breaks: 1}, second: &origin{body: body, breaks: 1 << 20}, hint: -1, fails: true},
		{name: "both have nothing", first: &origin{}, second: &origin{}, hint: -1, fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := setup(t, nil)
			test.first.name, test.second.name = "first", "second"
			test.first.gate = make(chan struct{})
			dgst := digest.FromBytes(body)
			join := func(src flight.Source) ([]byte, error) {
				r, err := f.Join(t.Context(), "", "", dgst, flight.Hint(test.hint), src)
				if err != nil {
					return nil, err
				}
				defer r.Close()
				return read(t.Context(), r, 0, r.Size())
			}
			type result struct {
				got []byte
				err error
			}
			results := make(chan result, 2)
			// The first source hangs at its gate until both have joined, unless it fails at once.
			for _, src := range []flight.Source{test.first, test.second} {
				go func() {
					got, err := join(src)
					results <- result{got, err}
				}()
				if src == flight.Source(test.first) && test.first.body != nil && test.first.size == 0 && len(test.first.body) == len(body) {
					for _, opens := test.first.counted(); opens == 0; _, opens = test.first.counted() {
						time.Sleep(time.Millisecond)
					}
				}
			}
			var got []result
			for len(got) < 2 {
				select {
				case test.first.gate <- struct{}{}:
				case r := <-results:
					got = append(got, r)
				}
			}
			succeeded := 0
			for _, r := range got {
				if r.err == nil && bytes.Equal(r.got, body) {
					succeeded++
				} else if r.err == nil {
					t.Errorf("%d bytes that are not the blob", len(r.got))
				}
			}
			if test.fails != (succeeded == 0) {
				t.Errorf("%d of 2 readers succeeded: %v, %v", succeeded, got[0].err, got[1].err)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	f := setup(t, func(c *flight.Config) { c.Max = 1 })
	a, b := randomBody(1<<20), randomBody(2<<20)
	src := &origin{name: "a", body: a, gate: make(chan struct{})}
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(a), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := f.Join(t.Context(), "", "", digest.FromBytes(b), flight.SizeHint{}, &origin{name: "b", body: b}); !errors.Is(err, flight.ErrBusy) {
		t.Errorf("second flight: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	if _, err := r.CopyRange(ctx, io.Discard, 0, r.Size()); err == nil || err.Error() != "gone" {
		t.Errorf("a reader whose context has ended: %v", err)
	}
	if _, err := r.CopyRange(t.Context(), io.Discard, 1, r.Size()); err == nil {
		t.Error("a range outside of the blob was read")
	}
	f.Close()
	if _, err := r.CopyRange(t.Context(), io.Discard, 0, r.Size()); !errors.Is(err, flight.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := f.Join(t.Context(), "", "", digest.FromBytes(a), flight.SizeHint{}, src); !errors.Is(err, flight.ErrClosed) {
		t.Errorf("Join after Close: %v", err)
	}
}

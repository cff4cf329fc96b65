package flight_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// TestWrongBytesAreReplaced has a source that is not trusted send wrong bytes: it is blamed, and the reader gets the
// blob from the next one, without having seen any of the wrong.
func TestWrongBytesAreReplaced(t *testing.T) {
	body := randomBody(2 << 20)
	wrong := bytes.Clone(body)
	wrong[7] ^= 1
	for _, test := range []struct {
		name    string
		instead []byte // What the liar has once it was blamed.
		second  []byte
	}{
		{"by another source", nil, body},
		{"by another member of the same source", body, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := setup(t, nil)
			liar := &origin{name: "members", body: wrong, untrusted: true, instead: test.instead}
			second := &origin{name: "upstream", body: test.second}
			r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, liar, second)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if liar.blamed != 1 {
				t.Errorf("blamed %d times", liar.blamed)
			}
		})
	}
}

func TestWrongBytesFromTheLastSource(t *testing.T) {
	f := setup(t, nil)
	body := randomBody(2 << 20)
	wrong := bytes.Clone(body)
	wrong[7] ^= 1
	liar := &origin{name: "members", body: wrong, untrusted: true}
	upstream := &origin{name: "upstream", body: wrong}
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, liar, upstream)
	var got []byte
	if err == nil {
		defer r.Close()
		got, err = read(t.Context(), r, 0, r.Size())
	}
	if !errors.Is(err, flight.ErrMismatch) || len(got) == len(body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if liar.blamed != 1 || upstream.blamed != 1 {
		t.Errorf("blamed %d and %d times", liar.blamed, upstream.blamed)
	}
}

// TestHold shows when bytes of a source that is not trusted leave: all at once at the end, or as they arrive where the
// blob is large or takes its time.
func TestHold(t *testing.T) {
	for _, test := range []struct {
		name      string
		holdBytes int64
		wait      time.Duration
		gives     bool
	}{
		{name: "held back", holdBytes: 1 << 20, wait: 4 * time.Second},
		{name: "too large", holdBytes: 1<<20 - 1, gives: true},
		{name: "too slow", holdBytes: 1 << 20, wait: 6 * time.Second, gives: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spool := &memorySpool{body: make([]byte, 1<<20)}
				g := flight.New(flight.Config{
					Create:    func(content.Owner, digest.Digest, int64) (flight.Spool, error) { return spool.open(t) },
					Held:      func(digest.Digest) bool { return false },
					HoldBytes: test.holdBytes, HoldFor: 5 * time.Second,
				})
				defer g.Close()
				body := randomBody(1 << 20)
				src := &origin{name: "members", body: body, untrusted: true, gate: make(chan struct{})}
				ready, late := make(chan error, 1), make(chan error, 1)
				var asking sync.WaitGroup
				ask := func(off int64, told chan error) {
					asking.Go(func() {
						r, err := g.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
						if err == nil {
							err = r.Ready(t.Context(), off)
							r.Close()
						}
						told <- err
					})
				}
				ask(0, ready) // What is held back is not even told the size of.
				defer asking.Wait()
				src.gate <- struct{}{} // 64 of 1024 KiB.
				time.Sleep(test.wait)
				synctest.Wait()
				select {
				case err := <-ready:
					if !test.gives || err != nil {
						t.Errorf("gave bytes (%v) before the verdict", err)
					}
				default:
					if test.gives {
						t.Error("gave nothing")
					}
				}
				ask(1<<20-1, late)
				synctest.Wait() // It has boarded.
				for range 15 {
					src.gate <- struct{}{}
				}
				if err := <-late; err != nil {
					t.Errorf("verified, and yet: %v", err)
				}
			})
		})
	}
}

// TestLiesAboutSize has a member that is wrong about the size as well.
func TestLiesAboutSize(t *testing.T) {
	body := randomBody(2 << 20)
	for _, size := range []int{0, 1 << 20, 3 << 20} {
		f := setup(t, nil)
		wrong := randomBody(size)
		if wrong == nil {
			wrong = []byte{}
		}
		liar := &origin{name: "members", body: wrong, untrusted: true}
		upstream := &origin{name: "upstream", body: body}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := f.Join(ctx, "", "", digest.FromBytes(body), flight.SizeHint{}, liar, upstream)
		if err != nil || r.Size() != int64(len(body)) {
			t.Fatalf("%d bytes: first reader: %v", size, err)
		}
		if err := r.Ready(ctx, 0); err != nil {
			t.Errorf("%d bytes: first reader: %v", size, err)
		}
		r.Close()
		n, err := copyTo(ctx, f, digest.FromBytes(body), upstream, &comparer{want: body}, 0)
		if err != nil || n != int64(len(body)) {
			t.Errorf("%d bytes: second reader: %d bytes, %v", size, n, err)
		}
	}
}

// TestExtraStreamFails has a source that takes one connection only, and says so at once or late: the reader ahead has
// to wait, and nobody fails.
func TestExtraStreamFails(t *testing.T) {
	for _, ponder := range []int64{0, 20 << 20, 40 << 20} {
		f := setup(t, nil)
		body := randomBody(40 << 20)
		src := &origin{name: "a", body: body, alone: true, ponder: ponder}
		var readers sync.WaitGroup
		for _, off := range []int64{0, 30 << 20, 20 << 20} {
			readers.Go(func() {
				got := &comparer{want: body[off:]}
				n, err := copyTo(t.Context(), f, digest.FromBytes(body), src, got, off)
				if err != nil || n != int64(len(body))-off || got.differs {
					t.Errorf("refused after %d bytes: from %d: %d bytes, right: %v, %v", ponder, off, n, !got.differs, err)
				}
			})
		}
		readers.Wait()
	}
}

func TestRejoinAfterTheLastReader(t *testing.T) {
	f := setup(t, func(c *flight.Config) { c.Grace = -1 })
	body := randomBody(1 << 20)
	src := &origin{name: "a", body: body}
	for range 50 {
		r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
		if errors.Is(err, flight.ErrHeld) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
}

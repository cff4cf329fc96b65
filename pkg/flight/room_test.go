package flight_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// TestFlightsAreShared has a registry start flights that never end: others still get some, and some of theirs end.
func TestFlightsAreShared(t *testing.T) {
	f := setup(t, func(c *flight.Config) { c.Max = 16 })
	gate := make(chan struct{})
	defer close(gate)
	hold := func(owner content.Owner, i int) error {
		body := randomBody(100_000 + i)
		src := &origin{name: fmt.Sprint(owner, i), body: body, gate: gate}
		r, err := f.Join(t.Context(), "", owner, digest.FromBytes(body), flight.SizeHint{}, src)
		if err == nil {
			t.Cleanup(func() { r.Close() })
		}
		return err
	}
	started := 0
	for i := range 16 {
		switch err := hold("evil.example", i); {
		case err == nil:
			started++
		case !errors.Is(err, flight.ErrBusy):
			t.Fatal(err)
		}
	}
	if started != 12 {
		t.Errorf("one registry has %d of 16 flights, want 12", started)
	}
	for i := range 3 {
		if err := hold("good.example", 100+i); err != nil {
			t.Errorf("flight %d of another registry: %v", i, err)
		}
	}
	body := randomBody(1 << 20)
	if n, err := copyTo(t.Context(), f, digest.FromBytes(body), &origin{name: "third", body: body}, &comparer{want: body}, 0); err != nil || n != 1<<20 {
		t.Errorf("a third registry: %d bytes, %v", n, err)
	}
}

// TestAnnouncedSize has a registry announce nearly all of the cache's size and send a little of it: what the cache held
// stays, and what cannot be kept is refused before anybody gets a byte, so that it can pass through.
func TestAnnouncedSize(t *testing.T) {
	const mib = 1 << 20
	for _, size := range []int64{31 * mib, 24 * mib} {
		c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 32 * mib, Log: testr.New(t)})
		if err != nil {
			t.Fatal(err)
		}
		f := setup(t, func(cfg *flight.Config) {
			cfg.Create = func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
				return c.Create(owner, dgst, size)
			}
		})
		held := randomBody(30 * mib)
		i, err := c.Create("victim.example", digest.FromBytes(held[:20*mib]), 20*mib)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.WriteAt(held[:20*mib], 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(i.Commit(t.Context(), ""), i.Discard()); err != nil {
			t.Fatal(err)
		}
		// The source stands still after its first 64 KiB.
		src := &origin{name: "evil", body: randomBody(mib), size: size, gate: make(chan struct{}, 1)}
		src.gate <- struct{}{}
		r, err := f.Join(t.Context(), "", "evil.example", digest.FromString("x"), flight.SizeHint{}, src)
		switch {
		case err == nil:
			if err := r.Ready(t.Context(), 0); err != nil {
				t.Error(err)
			}
			r.Close()
		case !errors.Is(err, content.ErrNoSpace):
			t.Errorf("%d bytes: %v, want ErrNoSpace", size, err)
		}
		if blob, err := c.Open(t.Context(), digest.FromBytes(held[:20*mib])); err != nil {
			t.Errorf("%d bytes that were announced evicted what was held: %v", size, err)
		} else {
			blob.Close()
		}
		f.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

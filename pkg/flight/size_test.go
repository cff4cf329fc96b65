package flight_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// TestHintIsHearsay has a wrong word on the size: whoever has the blob knows better, and gives it.
func TestHintIsHearsay(t *testing.T) {
	body := randomBody(1 << 20)
	for _, untrusted := range []bool{false, true} {
		for _, hint := range []int64{-1, 0, 7, 1 << 20, 1 << 50} {
			f := setup(t, nil)
			src := &origin{name: "a", body: body, untrusted: untrusted}
			r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.Hint(hint), src)
			if err != nil {
				t.Errorf("hint %d, untrusted: %v: %v", hint, untrusted, err)
				continue
			}
			if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			r.Close()
			if src.blamed > 0 {
				t.Error("blamed for another's wrong hint")
			}
		}
	}
}

// TestReadersWithOtherHints has an attacker's reader start a flight, with a wrong hint, that somebody else's reader
// boards, with the right one. There is no registry.
func TestReadersWithOtherHints(t *testing.T) {
	body := randomBody(1 << 20)
	f := setup(t, nil)
	gate := make(chan struct{})
	src := &origin{name: "members", body: body, untrusted: true, gate: gate}
	results := make(chan error, 2)
	for _, hint := range []int64{5 << 20, 1 << 20} {
		go func() {
			r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.Hint(hint), src)
			if err != nil {
				results <- err
				return
			}
			defer r.Close()
			got, err := read(t.Context(), r, 0, r.Size())
			if err == nil && !bytes.Equal(got, body) {
				err = errors.New("other bytes")
			}
			results <- err
		}()
		for _, opens := src.counted(); opens == 0; _, opens = src.counted() {
			gate <- struct{}{}
		}
	}
	close(gate)
	for range 2 {
		if err := <-results; err != nil && !errors.Is(err, flight.ErrHeld) {
			t.Error(err)
		}
	}
}

// TestWordOfUpstream has members say a wrong size of a blob that is too large to be held back, and break off. Who was
// told it is cut short, and has no byte of the one after some of the other. The blob comes all the same.
func TestWordOfUpstream(t *testing.T) {
	body, wrong := randomBody(2<<20), randomBody(3<<20)
	f := setup(t, func(c *flight.Config) { c.HoldFor = -1 })
	gate := make(chan struct{}, 2)
	liar := &origin{name: "members", body: wrong, untrusted: true, breaks: 64 << 10, gate: gate}
	upstream := &origin{name: "upstream", body: body}
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, liar, upstream)
	if err != nil || r.Size() != int64(len(wrong)) {
		t.Fatalf("%v, %v", r, err)
	}
	defer r.Close()
	gate <- struct{}{}
	if err := r.Ready(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t.Context(), r, 0, 1000); err != nil || !bytes.Equal(got, wrong[:1000]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	close(gate)
	var broke *flight.Error
	if got, err := read(t.Context(), r, 1000, r.Size()-1000); !errors.As(err, &broke) || !bytes.HasPrefix(wrong[1000:], got) {
		t.Errorf("%d bytes more, %v", len(got), err)
	}
	if n, err := copyTo(t.Context(), f, digest.FromBytes(body), upstream, &comparer{want: body}, 0); err != nil || n != int64(len(body)) {
		t.Errorf("the next reader: %d bytes, %v", n, err)
	}
}

// TestRegistryOfAnother has an attacker's registry give other bytes, and another size, for a digest that somebody else
// wants from their own registry meanwhile.
func TestRegistryOfAnother(t *testing.T) {
	body := randomBody(1 << 20)
	for name, wrong := range map[string]*origin{
		"other bytes": {body: randomBody(1 << 20)},
		"other size":  {body: randomBody(20 << 10)},
		"breaks off":  {body: randomBody(2 << 20), breaks: 64 << 10},
	} {
		f := setup(t, nil)
		wrong.name, wrong.gate = "attacker", make(chan struct{})
		dgst := digest.FromBytes(body)
		attacked := make(chan struct{})
		go func() {
			defer close(attacked)
			if r, err := f.Join(t.Context(), "", "", dgst, flight.SizeHint{}, wrong); err == nil {
				defer r.Close()
				<-wrong.gate
			}
		}()
		for _, opens := wrong.counted(); opens == 0; _, opens = wrong.counted() {
		}
		got := make(chan error, 1)
		right := &origin{name: "upstream", body: body}
		joined := make(chan struct{})
		go func() {
			close(joined)
			n, err := copyTo(t.Context(), f, dgst, right, &comparer{want: body}, 0)
			if err == nil && n != int64(len(body)) {
				err = errors.New("short")
			}
			var broke *flight.Error
			if errors.As(err, &broke) { // It was told the other size: cut short, and not wrong. Its next try is right.
				_, err = copyTo(t.Context(), f, dgst, right, &comparer{want: body}, 0)
			}
			got <- err
		}()
		<-joined
		close(wrong.gate)
		if err := <-got; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		<-attacked
	}
}

// TestSwarmOfAnotherSize has a swarm bring pieces of a blob of another size, until a source says how many bytes there
// are: the flight starts over, and a swarm of the right size helps with it.
func TestSwarmOfAnotherSize(t *testing.T) {
	body, wrong := randomBody(2<<20), randomBody(3<<20)
	upstream := &origin{name: "upstream", body: body}
	sizes := make(chan int64, 4)
	who := &crowd{}
	f, _ := guided(t, func(ctx context.Context, g *flight.Guided) error {
		size, _ := g.Size()
		sizes <- size
		if size >= 0 {
			return bring(g, who, 0, body[:1<<20])
		}
		if err := errors.Join(g.Begin(int64(len(wrong))), bring(g, who, 0, wrong[:1<<20])); err != nil {
			t.Error(err)
		}
		if err := g.Pull(1<<20, -1, nil).Run(ctx, upstream); err == nil {
			t.Error("a stream of another size was read")
		}
		<-ctx.Done() // Another is asked to guide.
		if p, err := g.Piece(1<<20, 2<<20); err == nil {
			t.Errorf("the swarm of the wrong size goes on: %v", p)
		}
		return nil
	})
	n, err := copyTo(t.Context(), f, digest.FromBytes(body), upstream, &comparer{want: body}, 0)
	var broke *flight.Error
	if errors.As(err, &broke) { // It boarded while the size was wrong.
		n, err = copyTo(t.Context(), f, digest.FromBytes(body), upstream, &comparer{want: body}, 0)
	}
	if err != nil || n != int64(len(body)) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if first, second := <-sizes, <-sizes; first != -1 || second != int64(len(body)) {
		t.Errorf("guided with %d and then %d bytes", first, second)
	}
	if who.blamed.Load() != 0 {
		t.Error("somebody was blamed for a wrong size")
	}
}

package flight_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// guide is a swarm that does what a test says.
type guide struct {
	do     func(ctx context.Context, g *flight.Guided) error
	landed atomic.Int64
}

func (s *guide) Guide(ctx context.Context, g *flight.Guided) error { return s.do(ctx, g) }

func (s *guide) Landed(_ string, _ digest.Digest, _ int64, held bool) {
	if held {
		s.landed.Add(1)
	}
}

// crowd is who pieces come from.
type crowd struct{ blamed atomic.Int64 }

func (c *crowd) Trusted() bool  { return false }
func (c *crowd) Kind() string   { return "peer" }
func (c *crowd) String() string { return "crowd" }
func (c *crowd) Blame(error)    { c.blamed.Add(1) }

func guided(t *testing.T, do func(ctx context.Context, g *flight.Guided) error) (fixture, *guide) {
	s := &guide{do: do}
	return setup(t, func(c *flight.Config) { c.Swarm = s }), s
}

// bring writes a piece as a member would send it.
func bring(g *flight.Guided, src flight.Origin, start int64, body []byte) error {
	p, err := g.Piece(start, start+int64(len(body)))
	if p == nil || err != nil {
		return err
	}
	defer p.Drop()
	for len(body) > 0 {
		n, err := p.Write(body[:min(len(body), 10_000)])
		if err != nil {
			return err
		}
		body = body[n:]
	}
	return p.Keep(src, true)
}

// TestGuided has a swarm bring a blob in pieces from both ends and in a stream between them.
func TestGuided(t *testing.T) {
	body := randomBody(6 << 20)
	src := &origin{name: "upstream", body: body}
	f, swarm := guided(t, func(ctx context.Context, g *flight.Guided) error {
		if err := g.Begin(int64(len(body))); err != nil {
			return err
		}
		var group sync.WaitGroup
		for i := range 2 {
			group.Go(func() {
				for n := range 8 {
					start := int64(i)*(4<<20) + int64(n)*(256<<10)
					if err := bring(g, &crowd{}, start, body[start:start+256<<10]); err != nil {
						t.Errorf("piece at %d: %v", start, err)
					}
				}
			})
		}
		from, to := g.Missing(2<<20, 4<<20)
		pull := g.Pull(from, int64(len(body)), nil)
		pull.Cut(to)
		if err := pull.Run(ctx, src); err != nil {
			t.Errorf("pull: %v", err)
		}
		group.Wait()
		if from, to := g.Missing(0, int64(len(body))); from != to {
			t.Errorf("missing: [%d, %d)", from, to)
		}
		<-ctx.Done()
		if !g.Verified() {
			t.Error("not verified")
		}
		return nil
	})
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if kinds := r.Source(); kinds != "peer+test" && kinds != "test+peer" {
		t.Errorf("sources: %s", kinds)
	}
	r.Close()
	eventuallyHeld(t, f.cache, digest.FromBytes(body)).Close()
	f.Close()
	if sent, _ := src.counted(); sent != 2<<20 {
		t.Errorf("the source sent %d bytes", sent)
	}
	if swarm.landed.Load() != 1 {
		t.Errorf("landed %d times", swarm.landed.Load())
	}
}

// TestGuidanceEnds has a swarm that gives up half-way: the flight gets the rest by itself, and only the rest.
func TestGuidanceEnds(t *testing.T) {
	body := randomBody(4 << 20)
	for name, begins := range map[string]bool{"before anything": false, "half-way": true} {
		t.Run(name, func(t *testing.T) {
			f, _ := guided(t, func(_ context.Context, g *flight.Guided) error {
				if begins {
					if err := g.Begin(int64(len(body))); err != nil {
						return err
					}
					if err := bring(g, &crowd{}, 1<<20, body[1<<20:3<<20]); err != nil {
						return err
					}
				}
				return errors.New("no use")
			})
			src := &origin{name: "upstream", body: body}
			n, err := copyTo(t.Context(), f, digest.FromBytes(body), src, &comparer{want: body}, 0)
			if err != nil || n != int64(len(body)) {
				t.Errorf("%d bytes, %v", n, err)
			}
			want := int64(len(body))
			if begins {
				want -= 2 << 20
			}
			if sent, _ := src.counted(); sent != want {
				t.Errorf("the source sent %d bytes, want %d", sent, want)
			}
		})
	}
}

func TestNowhere(t *testing.T) {
	f, _ := guided(t, func(context.Context, *flight.Guided) error { return fmt.Errorf("%w: refused", flight.ErrNowhere) })
	src := &origin{name: "upstream", body: []byte("body")}
	if _, err := f.Join(t.Context(), "", "", digest.FromString("body"), flight.SizeHint{}, src); !errors.Is(err, flight.ErrNowhere) {
		t.Errorf("joined: %v", err)
	}
	if _, opens := src.counted(); opens != 0 {
		t.Errorf("asked %d times in spite of that", opens)
	}
}

// TestCrowdWasWrong has the swarm bring bytes that are not the blob's: they go, and who is trusted gives the blob.
func TestCrowdWasWrong(t *testing.T) {
	body := randomBody(1 << 20)
	wrong := bytes.Clone(body)
	wrong[9] ^= 1
	who := &crowd{}
	gone := make(chan error, 1)
	f, _ := guided(t, func(ctx context.Context, g *flight.Guided) error {
		err := errors.Join(g.Begin(int64(len(body))), bring(g, who, 0, wrong))
		<-ctx.Done()
		gone <- errors.Join(err, g.Begin(1)) // The flight is not ours any more.
		return nil
	})
	liar := &origin{name: "members", body: wrong, untrusted: true}
	upstream := &origin{name: "upstream", body: body}
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, liar, upstream)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := <-gone; err == nil {
		t.Error("a swarm that was wrong still guides")
	}
	if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, opens := liar.counted(); opens != 0 || who.blamed.Load() != 1 {
		t.Errorf("other members were asked %d times; blamed %d times", opens, who.blamed.Load())
	}
}

// TestPieceTwice asks two for the same piece: the second is faster, and the first neither holds it up nor spoils it.
func TestPieceTwice(t *testing.T) {
	body := randomBody(1 << 20)
	f, _ := guided(t, func(ctx context.Context, g *flight.Guided) error {
		if err := g.Begin(int64(len(body))); err != nil {
			return err
		}
		first, err := g.Piece(0, 512<<10)
		if err != nil {
			return err
		}
		defer first.Drop()
		if _, err := first.Write(body[:100<<10]); err != nil {
			return err
		}
		if err := bring(g, &crowd{}, 0, body[:512<<10]); err != nil {
			t.Errorf("second: %v", err)
		}
		if _, err := first.Write(make([]byte, 100<<10)); err == nil {
			t.Error("the first still writes")
		}
		if err := first.Keep(&crowd{}, false); err == nil {
			t.Error("the first is kept as well")
		}
		if p, err := g.Piece(0, 512<<10); p != nil || err != nil {
			t.Errorf("asked for what is here: %v, %v", p, err)
		}
		if err := bring(g, &crowd{}, 512<<10, body[512<<10:]); err != nil {
			t.Errorf("rest: %v", err)
		}
		<-ctx.Done()
		return nil
	})
	n, err := copyTo(t.Context(), f, digest.FromBytes(body), &origin{name: "nothing"}, &comparer{want: body}, 0)
	if err != nil || n != int64(len(body)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestPart serves others what has arrived, and nothing else.
func TestPart(t *testing.T) {
	body := randomBody(1 << 20)
	dgst := digest.FromBytes(body)
	half, more := make(chan struct{}), make(chan struct{})
	f, _ := guided(t, func(ctx context.Context, g *flight.Guided) error {
		if err := errors.Join(g.Begin(int64(len(body))), bring(g, &crowd{}, 512<<10, body[512<<10:])); err != nil {
			return err
		}
		close(half)
		<-more
		return bring(g, &crowd{}, 0, body[:512<<10])
	})
	if _, err := f.Part("", dgst); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("before the flight: %v", err)
	}
	r, err := f.Join(t.Context(), "", "", dgst, flight.SizeHint{}, &origin{name: "nothing"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	<-half
	part, err := f.Part("", dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	var got bytes.Buffer
	if _, err := part.CopyRange(t.Context(), &got, 600<<10, 100<<10); err != nil || !bytes.Equal(got.Bytes(), body[600<<10:700<<10]) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	for _, r := range [][2]int64{{0, 1}, {511 << 10, 2 << 10}, {0, 1 << 20}} {
		if _, err := part.CopyRange(t.Context(), &got, r[0], r[1]); !errors.Is(err, content.ErrNotFound) {
			t.Errorf("%d bytes from %d: %v", r[1], r[0], err)
		}
	}
	close(more)
	if got, err := read(t.Context(), r, 0, r.Size()); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

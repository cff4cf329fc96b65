package flight_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// witness is a source that wants to know whether what it sent was right.
type witness struct {
	origin
	mute bool // Says the size, and sends nothing.
	told atomic.Int64
}

func (w *witness) Verified() { w.told.Add(1) }

func (w *witness) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	in, err := w.origin.Open(ctx, off, end)
	if err == nil && w.mute {
		return muted{in}, nil
	}
	return in, err
}

type muted struct{ flight.Stream }

func (muted) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestWitnesses: that a blob is right is told to those alone that sent bytes of it. A repository is not where a blob is
// from because its client asked for the blob while another one's registry sent it.
func TestWitnesses(t *testing.T) {
	body := randomBody(1 << 20)
	for _, test := range []struct {
		name    string
		body    []byte
		sources []*witness
		told    []int64
	}{
		{"the first one sends all", body, []*witness{{}, {}}, []int64{1, 0}},
		{"the first one has nothing", body, []*witness{{mute: true}, {}, {}}, []int64{0, 1, 0}},
		{"one goes on where another broke", body, []*witness{{origin: origin{breaks: 300 << 10}}, {}, {}}, []int64{1, 1, 0}},
		{"a blob without bytes", []byte{}, []*witness{{}, {}}, []int64{1, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := setup(t, nil)
			var sources []flight.Source
			for i, src := range test.sources {
				src.name, src.body = string(rune('a'+i)), test.body
				sources = append(sources, src)
			}
			r, err := f.Join(t.Context(), "", "", digest.FromBytes(test.body), flight.SizeHint{}, sources...)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := read(t.Context(), r, 0, r.Size()); err != nil {
				t.Fatal(err)
			}
			if err := r.Ready(t.Context(), r.Size()); err != nil { // Of a blob without bytes there was nothing to wait for.
				t.Fatal(err)
			}
			var told []int64
			for _, src := range test.sources {
				told = append(told, src.told.Load())
			}
			if !slices.Equal(told, test.told) {
				t.Errorf("told: %v, want %v", told, test.told)
			}
		})
	}
}

// TestLateWitnesses: sources that join a flight under way, or one that is verified and not yet in the store, and that
// need send nothing any more, prove nothing.
func TestLateWitnesses(t *testing.T) {
	body := randomBody(1 << 20)
	keep := make(chan struct{})
	f := setup(t, func(c *flight.Config) {
		create := c.Create
		c.Create = func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			s, err := create(owner, dgst, size)
			return &slow{s, keep}, err
		}
	})
	gate := make(chan struct{})
	first := &witness{origin: origin{name: "first", body: body, gate: gate}}
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, first)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, when := range []string{"under way", "verified"} {
		late := &witness{origin: origin{name: when, body: body}}
		other, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, late)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if when == "under way" {
			close(gate)
		}
		if _, err := read(t.Context(), other, 0, other.Size()); err != nil {
			t.Fatal(err)
		}
		if told := late.told.Load(); told != 0 {
			t.Errorf("%s: told %d times of bytes that another sent", when, told)
		}
	}
	if told := first.told.Load(); told != 1 {
		t.Errorf("who sent them was told %d times", told)
	}
	close(keep)
}

// slow is a spool that is not kept before it may be.
type slow struct {
	flight.Spool
	keep chan struct{}
}

func (s *slow) Commit(ctx context.Context, mediaType string) error {
	<-s.keep
	return s.Spool.Commit(ctx, mediaType)
}

// heard is a crowd that wants to know whether its pieces were right.
type heard struct {
	crowd
	told atomic.Int64
}

func (h *heard) Verified() { h.told.Add(1) }

// TestGuidedWitnesses: who pieces come from hears that they were right, and the sources that were not needed do not.
func TestGuidedWitnesses(t *testing.T) {
	body := randomBody(512 << 10)
	members, idle, src := &heard{}, &heard{}, &witness{origin: origin{name: "upstream", body: body}}
	f, _ := guided(t, func(ctx context.Context, g *flight.Guided) error {
		if err := g.Begin(int64(len(body))); err != nil {
			return err
		}
		double, err := g.Piece(0, 256<<10) // Overtaken by who brings the same bytes first.
		if err != nil {
			return err
		}
		for start := int64(0); start < int64(len(body)); start += 256 << 10 {
			if err := bring(g, members, start, body[start:start+256<<10]); err != nil {
				t.Errorf("piece at %d: %v", start, err)
			}
		}
		if err := double.Keep(idle, false); err == nil {
			t.Error("a piece that was overtaken was kept")
		}
		<-ctx.Done()
		return nil
	})
	r, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := read(t.Context(), r, 0, r.Size()); err != nil {
		t.Fatal(err)
	}
	if members.told.Load() != 1 || idle.told.Load() != 0 || src.told.Load() != 0 {
		t.Errorf("told: members %d, those who were overtaken %d, upstream %d", members.told.Load(), idle.told.Load(), src.told.Load())
	}
}

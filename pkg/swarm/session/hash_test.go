package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
)

// TestRunning hashes pieces of ten bytes that come in chunks.
func TestRunning(t *testing.T) {
	body := []byte("0123456789abcdefghij")
	type chunk struct{ off, end int64 }
	for _, test := range []struct {
		name   string
		chunks []chunk
		whole  []int64 // The starts of the pieces whose hash it gives.
	}{
		{"in one", []chunk{{0, 10}, {10, 20}}, []int64{0, 10}},
		{"in small ones", []chunk{{0, 3}, {3, 9}, {9, 10}, {10, 19}, {19, 20}}, []int64{0, 10}},
		{"from the middle on", []chunk{{4, 10}, {10, 20}}, []int64{10}},
		{"with a gap", []chunk{{0, 3}, {4, 10}, {10, 20}}, []int64{10}},
		{"broken off and from the start again", []chunk{{0, 7}, {0, 10}}, []int64{0}},
		{"another piece between", []chunk{{0, 7}, {10, 20}, {7, 10}}, []int64{10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r running
			var whole []int64
			for _, c := range test.chunks {
				start := c.off / 10 * 10
				sum, ok := r.write(start, start+10, c.off, body[c.off:c.end])
				if !ok {
					continue
				}
				whole = append(whole, start)
				if sum != sha256.Sum256(body[start:start+10]) {
					t.Errorf("wrong hash of the piece at %d", start)
				}
			}
			if len(whole) != len(test.whole) || len(whole) > 0 && whole[0] != test.whole[0] {
				t.Errorf("gives hashes of %v, want %v", whole, test.whole)
			}
		})
	}
}

// bent is a spool on a disk that keeps something else than was written.
type bent struct{ flight.Spool }

func (b bent) WriteAt(p []byte, off int64) (int, error) {
	p = bytes.Clone(p)
	p[0] ^= 1
	return b.Spool.WriteAt(p, off)
}

// hanging is a source that never sends the last byte.
type hanging struct{ source }

func (h *hanging) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	in, err := h.source.Open(ctx, off, end)
	if err != nil {
		return nil, err
	}
	p := in.(*passage)
	p.Reader = io.MultiReader(io.LimitReader(p.Reader, int64(len(h.body))-off-1), waiting{ctx})
	return p, nil
}

type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

// TestHashesOfWhatCame has a disk change what a lease brings: others are told the hashes of what upstream sent, so that
// they find out.
func TestHashesOfWhatCame(t *testing.T) {
	body := make([]byte, 5<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(body)
	dgst, layout := digest.FromBytes(body), swarm.NewLayout(int64(len(body)))
	x := newSessions(t, func(c *Config) {
		c.Announcer = &office{answer: func(a swarm.Announce) (tracker.Answer, error) {
			return tracker.Answer{Assignment: swarm.Assignment{
				Size: int64(len(body)), Neighbours: []swarm.Neighbour{{Member: "other"}}, Leases: []swarm.Lease{{End: int64(len(body))}},
			}}, nil
		}}
	})
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	g := flight.New(flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			s, err := c.Create(owner, dgst, size)
			return bent{s}, err
		},
		Held: func(digest.Digest) bool { return false }, Swarm: x,
	})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer func() {
		cancel()
		<-done
		g.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	go func() {
		reader, err := g.Join(ctx, "", "", dgst, flight.SizeHint{}, &hanging{source{body: body}})
		if err == nil {
			_, err = reader.CopyRange(ctx, io.Discard, 0, reader.Size())
			reader.Close()
		}
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		told := make(chan map[int]swarm.Hash, 1)
		if p := x.session(dgst.String()); p != nil && p.post(func(time.Time) {
			hashes := map[int]swarm.Hash{}
			for piece, hash := range p.hashes {
				hashes[piece] = hash
			}
			told <- hashes
		}) {
			hashes := <-told
			for piece, hash := range hashes {
				if start, end := layout.Span(piece); hash != sha256.Sum256(body[start:end]) {
					t.Fatalf("piece %d is told with the hash of what the disk made of it", piece)
				}
			}
			if len(hashes) == layout.Pieces()-1 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the pieces never came")
		}
	}
}

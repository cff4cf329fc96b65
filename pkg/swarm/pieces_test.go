package swarm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPiecesAgainstMap makes random calls on a set and on a map, which is too simple to be wrong.
func TestPiecesAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var p Pieces
		model := make(map[int]bool)
		n := 1 + r.IntN(300)
		for range r.IntN(600) {
			piece := r.IntN(n+2) - 1
			if r.IntN(4) == 0 {
				if p.Remove(piece) != model[piece] {
					t.Fatalf("Remove(%d) is not %v", piece, model[piece])
				}
				delete(model, piece)
				continue
			}
			if p.Add(piece) != (piece >= 0 && !model[piece]) {
				t.Fatalf("Add(%d) with %v", piece, model)
			}
			if piece >= 0 {
				model[piece] = true
			}
		}
		for piece := -1; piece < n+70; piece++ {
			if p.Has(piece) != model[piece] {
				t.Fatalf("Has(%d) is not %v", piece, model[piece])
			}
		}
		var all []int
		for piece := range p.All {
			all = append(all, piece)
		}
		if p.Count() != len(model) || len(all) != len(model) || !slices.IsSorted(all) {
			t.Fatalf("count %d, all %v of %v", p.Count(), all, model)
		}
		half := p.within(n / 2)
		if half.Has(n/2) || half.Has(n) || half.Count() > p.Count() || n > 2 && half.Has(n/2-1) != p.Has(n/2-1) {
			t.Fatalf("half of %v is %v", p, half)
		}
	}
}

func TestPiecesBounds(t *testing.T) {
	var p Pieces
	if p.Add(mostPieces) || p.Add(-1) || p.Count() != 0 {
		t.Error("a piece that no blob has was added")
	}
	if _, err := FromBytes(make([]byte, mostPieces/8+1)); !errors.Is(err, ErrTooManyPieces) {
		t.Errorf("too long a set: %v", err)
	}
	p.Add(3)
	q := p.Clone()
	q.Add(4)
	if p.Has(4) {
		t.Error("a clone shares its content")
	}
}

func FuzzPieces(f *testing.F) {
	for _, wire := range [][]byte{nil, {0}, {1, 2, 3}, bytes.Repeat([]byte{255}, 64), {0, 0, 0, 0, 0, 0, 0, 0, 1}} {
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		p, err := FromBytes(wire)
		if err != nil {
			return
		}
		count := 0
		for i := range len(wire) * 8 {
			bit := wire[i/8]>>(i%8)&1 == 1
			if p.Has(i) != bit {
				t.Fatalf("bit %d is not %v", i, bit)
			}
			if bit {
				count++
			}
		}
		if p.Count() != count || !bytes.Equal(p.Bytes(), bytes.TrimRight(wire, "\x00")) {
			t.Fatalf("%x came back as %x with %d", wire, p.Bytes(), p.Count())
		}
	})
}

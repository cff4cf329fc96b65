package swarm

import (
	"errors"
	"math/bits"
	"slices"
)

// ErrTooManyPieces says that a set of pieces on the wire is longer than that of any blob.
var ErrTooManyPieces = errors.New("more pieces than any blob has")

// Pieces is a set of pieces: a bitmap that grows as needed. The zero value is empty. It is not safe for concurrent use,
// and copies of it share their content: Clone before giving one away.
type Pieces struct {
	words []uint64
	count int
}

// FromBytes reads a set from its wire form, which is one bit for each piece, the lowest bit of the first byte first.
func FromBytes(wire []byte) (Pieces, error) {
	if len(wire) > mostPieces/8 {
		return Pieces{}, ErrTooManyPieces
	}
	var p Pieces
	p.words = make([]uint64, (len(wire)+7)/8)
	for i, b := range wire {
		p.words[i/8] |= uint64(b) << (i % 8 * 8)
		p.count += bits.OnesCount8(b)
	}
	return p, nil
}

// Bytes gives the wire form, without zeros at its end: the empty set has none.
func (p Pieces) Bytes() []byte {
	wire := make([]byte, 0, len(p.words)*8)
	for _, word := range p.words {
		for i := range 8 {
			wire = append(wire, byte(word>>(8*i)))
		}
	}
	for len(wire) > 0 && wire[len(wire)-1] == 0 {
		wire = wire[:len(wire)-1]
	}
	return wire
}

// Add puts a piece in, and says whether it is new. One that no blob can have is left out.
func (p *Pieces) Add(piece int) bool {
	if piece < 0 || piece >= mostPieces || p.Has(piece) {
		return false
	}
	if grow := piece/64 + 1 - len(p.words); grow > 0 {
		p.words = append(p.words, make([]uint64, grow)...)
	}
	p.words[piece/64] |= 1 << (piece % 64)
	p.count++
	return true
}

// Remove takes a piece out, and says whether it was in.
func (p *Pieces) Remove(piece int) bool {
	if !p.Has(piece) {
		return false
	}
	p.words[piece/64] &^= 1 << (piece % 64)
	p.count--
	return true
}

// Has tells whether a piece is in.
func (p Pieces) Has(piece int) bool {
	return piece >= 0 && piece/64 < len(p.words) && p.words[piece/64]&(1<<(piece%64)) != 0
}

// Count is how many are in.
func (p Pieces) Count() int { return p.count }

// Clone gives a copy that shares nothing.
func (p Pieces) Clone() Pieces { return Pieces{words: slices.Clone(p.words), count: p.count} }

// All goes through the pieces that are in, in order.
func (p Pieces) All(yield func(piece int) bool) {
	for i, word := range p.words {
		for ; word != 0; word &= word - 1 {
			if !yield(i*64 + bits.TrailingZeros64(word)) {
				return
			}
		}
	}
}

func (p Pieces) word(i int) uint64 {
	if i >= len(p.words) {
		return 0
	}
	return p.words[i]
}

// within gives the set without the pieces from n on.
func (p Pieces) within(n int) Pieces {
	words := min(len(p.words), (n+63)/64)
	q := Pieces{words: slices.Clone(p.words[:words])}
	if rest := n - (words-1)*64; words > 0 && rest < 64 {
		q.words[words-1] &= 1<<rest - 1
	}
	for _, word := range q.words {
		q.count += bits.OnesCount64(word)
	}
	return q
}

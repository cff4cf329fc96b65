package swarm

const (
	// OnePiece is the size below which a blob is not cut: it travels as a whole.
	OnePiece = 4 << 20

	// MaxSize is the largest size that a blob can be said to have: 16 TiB. What is larger is a lie, or a mistake.
	MaxSize = 1 << 44

	minPieceSize = 256 << 10
	maxPieceSize = 8 << 20
	// leastPieces is how many pieces a blob is cut into at least, where the bounds of the piece's size allow: fewer,
	// and the time for which a piece is on its way through the mesh is a noticeable part of the whole.
	leastPieces = 1024
	// mostPieces bounds what a declared size can cost in memory. Above 512 GiB pieces grow beyond 8 MiB.
	mostPieces = 1 << 16
)

// Layout is how a blob is cut into pieces. Every member computes the same one from the blob's size.
type Layout struct{ Size, PieceSize int64 }

// NewLayout gives the layout of a blob: one piece below 4 MiB, else the largest power of two that makes at least 1024
// of them, but from 256 KiB to 8 MiB.
func NewLayout(size int64) Layout {
	if size < OnePiece {
		return Layout{Size: max(0, size), PieceSize: OnePiece}
	}
	piece := int64(minPieceSize)
	for piece < maxPieceSize && size/(2*piece) >= leastPieces {
		piece *= 2
	}
	for (size-1)/piece+1 > mostPieces {
		piece *= 2
	}
	return Layout{Size: size, PieceSize: piece}
}

// Pieces is how many pieces there are: at least one, even of nothing.
func (l Layout) Pieces() int {
	if l.Size <= 0 || l.PieceSize <= 0 {
		return 1
	}
	return int((l.Size-1)/l.PieceSize + 1)
}

// Span bounds the bytes [start, end) of a piece. One that does not exist has none.
func (l Layout) Span(piece int) (start, end int64) {
	if piece < 0 || piece >= l.Pieces() {
		return l.Size, l.Size
	}
	start = int64(piece) * l.PieceSize
	return start, min(start+l.PieceSize, l.Size)
}

// At gives the piece that has the byte at an offset.
func (l Layout) At(off int64) int {
	if off <= 0 || l.PieceSize <= 0 {
		return 0
	}
	return min(int(min(off, l.Size)/l.PieceSize), l.Pieces()-1)
}

// Covered gives the pieces [first, last) that lie in the bytes [start, end) as a whole; a negative end is the blob's.
func (l Layout) Covered(start, end int64) (first, last int) {
	if end < 0 || end >= l.Size {
		last = l.Pieces()
	} else {
		last = int(end / l.PieceSize)
	}
	first = int((max(0, start) + l.PieceSize - 1) / l.PieceSize)
	return first, max(first, last)
}

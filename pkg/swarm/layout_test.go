package swarm

import "testing"

func TestLayout(t *testing.T) {
	for _, test := range []struct {
		size, piece int64
		pieces      int
	}{
		{-1, OnePiece, 1},
		{0, OnePiece, 1},
		{1, OnePiece, 1},
		{OnePiece - 1, OnePiece, 1},
		{OnePiece, 256 << 10, 16},
		{100_000_000, 256 << 10, 382},
		{512<<20 - 1, 256 << 10, 2048},
		{512 << 20, 512 << 10, 1024},
		{1 << 30, 1 << 20, 1024},
		{1<<30 + 1, 1 << 20, 1025},
		{10 << 30, 8 << 20, 1280},
		{100 << 30, 8 << 20, 12800},
		{1 << 50, 16 << 30, 65536},
	} {
		l := NewLayout(test.size)
		if l.PieceSize != test.piece || l.Pieces() != test.pieces {
			t.Errorf("%d bytes are %d pieces of %d, want %d of %d", test.size, l.Pieces(), l.PieceSize, test.pieces, test.piece)
		}
		var next int64
		for i := range min(l.Pieces(), 2000) {
			start, end := l.Span(i)
			if start != next || end < start || l.Size > 0 && (l.At(start) != i || l.At(end-1) != i) {
				t.Fatalf("piece %d of %d bytes is %d to %d", i, test.size, start, end)
			}
			next = end
		}
		if start, end := l.Span(l.Pieces() - 1); end != max(0, test.size) || start > end {
			t.Errorf("the last piece of %d bytes ends at %d", test.size, end)
		}
		if start, end := l.Span(l.Pieces()); start != end {
			t.Errorf("a piece that does not exist has %d to %d", start, end)
		}
	}
}

func TestCovered(t *testing.T) {
	l := Layout{Size: 95, PieceSize: 10}
	for _, test := range []struct {
		start, end  int64
		first, last int
	}{
		{0, 95, 0, 10}, {0, -1, 0, 10}, {0, 90, 0, 9}, {1, 95, 1, 10}, {10, 20, 1, 2}, {11, 19, 2, 2}, {5, 200, 1, 10}, {-5, 10, 0, 1},
	} {
		if first, last := l.Covered(test.start, test.end); first != test.first || last != test.last {
			t.Errorf("%d to %d covers %d to %d, want %d to %d", test.start, test.end, first, last, test.first, test.last)
		}
	}
}

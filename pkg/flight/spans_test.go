package flight

import (
	"math/rand/v2"
	"testing"
)

// TestSpansAgainstModel compares the set with one bool per byte, over random calls.
func TestSpansAgainstModel(t *testing.T) {
	const size = 64
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var (
			set   spans
			model [size]bool
		)
		for range 1 + rng.IntN(12) {
			a, b := rng.Int64N(size+1), rng.Int64N(size+1)
			set.add(a, b)
			for i := a; i < b; i++ {
				model[i] = true
			}
			checkSpans(t, set, model[:])
		}
	}
}

func checkSpans(t *testing.T, set spans, model []bool) {
	t.Helper()
	size := int64(len(model))
	for i := 1; i < len(set); i++ {
		if set[i-1].end >= set[i].start {
			t.Fatalf("spans touch or overlap: %v", set)
		}
	}
	for off := range size {
		end := off
		for end < size && model[end] {
			end++
		}
		if got := set.endFrom(off); got != end {
			t.Fatalf("%v.endFrom(%d) = %d, want %d", set, off, got, end)
		}
		gap := span{off, off}
		for gap.start < size && model[gap.start] {
			gap.start++
		}
		gap.end = gap.start
		for gap.end < size && !model[gap.end] {
			gap.end++
		}
		if got := set.gapFrom(off, size); got != gap {
			t.Fatalf("%v.gapFrom(%d, %d) = %v, want %v", set, off, size, got, gap)
		}
	}
}

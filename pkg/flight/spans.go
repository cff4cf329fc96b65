package flight

import (
	"cmp"
	"slices"
)

// span is the bytes from start up to, and without, end.
type span struct{ start, end int64 }

// spans is a set of bytes as sorted spans that neither overlap nor touch. The zero value is empty.
type spans []span

// add puts the bytes of [start, end) into the set.
func (s *spans) add(start, end int64) {
	if start >= end {
		return
	}
	// The spans from i up to j overlap or touch the new one and melt into it.
	i, _ := slices.BinarySearchFunc(*s, start, func(sp span, at int64) int { return cmp.Compare(sp.end, at) })
	j := i
	for j < len(*s) && (*s)[j].start <= end {
		start, end = min(start, (*s)[j].start), max(end, (*s)[j].end)
		j++
	}
	*s = slices.Replace(*s, i, j, span{start, end})
}

// endFrom gives where the bytes end that the set has from off on without a gap; off itself where it lacks that byte.
func (s spans) endFrom(off int64) int64 {
	i, _ := slices.BinarySearchFunc(s, off, func(sp span, at int64) int { return cmp.Compare(sp.end-1, at) })
	if i < len(s) && s[i].start <= off {
		return s[i].end
	}
	return off
}

// gapFrom gives the first run of bytes at or after off that the set lacks below size, empty if it lacks none.
func (s spans) gapFrom(off, size int64) span {
	for _, sp := range s {
		switch {
		case sp.end <= off:
		case sp.start <= off:
			off = sp.end
		default:
			return span{off, min(sp.start, size)}
		}
	}
	return span{min(off, size), size}
}

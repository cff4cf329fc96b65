package swarm

import (
	"cmp"
	"slices"
)

// lease takes in the list of all ranges that are ours, and says what is new and what is gone.
func (d *Download) lease(leases []Lease) {
	now := make([]Lease, 0, len(leases))
	for _, l := range leases {
		if l.End < 0 || l.End > d.cfg.Layout.Size {
			l.End = d.cfg.Layout.Size
		}
		if l.Start = max(0, l.Start); l.Start < l.End {
			now = append(now, l)
		}
	}
	var kept []Lease
	for _, old := range d.leases {
		for _, lost := range without([]Lease{old}, now) {
			// What is done leaves the list too, and is nothing to stop for.
			first, last := d.cfg.Layout.Covered(lost.Start, lost.End)
			for first < last && d.have.Has(first) {
				first++
			}
			if first < last {
				// A reader ends here. What is ours still behind it is fetched anew.
				end := old.End
				old.End, _ = d.cfg.Layout.Span(first)
				d.do(Release{Lease: Lease{Start: old.End, End: end, From: old.From}})
				break
			}
		}
		kept = append(kept, old)
	}
	for _, l := range without(now, kept) {
		d.do(Fetch{Lease: l})
	}
	d.leases, d.mine = now, Pieces{}
	for _, l := range now {
		first, last := d.cfg.Layout.Covered(l.Start, l.End)
		for piece := first; piece < last; piece++ {
			d.mine.Add(piece)
		}
	}
}

// leaseDone tells whether the lease that a piece belongs to has nothing left to fetch.
func (d *Download) leaseDone(piece int) bool {
	start, _ := d.cfg.Layout.Span(piece)
	for _, l := range d.leases {
		if start < l.Start || start >= l.End {
			continue
		}
		first, last := d.cfg.Layout.Covered(l.Start, l.End)
		for p := first; p < last; p++ {
			if !d.have.Has(p) {
				return false
			}
		}
		return true
	}
	return false
}

// without gives the parts of ranges that no range of the same source in others has, in order.
func without(ranges, others []Lease) (out []Lease) {
	others = slices.SortedFunc(slices.Values(others), func(a, b Lease) int { return cmp.Compare(a.Start, b.Start) })
	for _, l := range ranges {
		for _, o := range others {
			if o.From != l.From || o.End <= l.Start || o.Start >= l.End {
				continue
			}
			if o.Start > l.Start {
				out = append(out, Lease{Start: l.Start, End: o.Start, From: l.From})
			}
			l.Start = o.End
		}
		if l.Start < l.End {
			out = append(out, l)
		}
	}
	return out
}

package swarm

import (
	"cmp"
	"slices"
	"time"
)

// fanOut is how many members a holder of a small blob sends it to at once.
const fanOut = 8

// assign gives what a member is to do.
func (b *blob) assign(now time.Time, m *member, known []Neighbour) Assignment {
	answer := Assignment{Size: b.sizeFor(m.size), Again: announceEvery}
	holders, learning := b.holders(now, m, known), b.learning(now)
	switch {
	case m.complete:
	case b.small():
		b.assignSmall(now, m, holders, &answer)
	default:
		if !m.waiting && !learning {
			b.grant(now, m, holders)
		}
		first, _ := b.free(0)
		answer.Open = first < len(b.copies)
		b.rescue(now, m, holders)
		b.meet(m)
		for _, other := range m.links {
			answer.Neighbours = append(answer.Neighbours, Neighbour{Member: other.id, Zone: other.zone})
		}
		near := func(n Neighbour) int {
			if n.Zone == m.zone {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(answer.Neighbours, func(a, c Neighbour) int { return cmp.Compare(near(a), near(c)) })
		answer.Neighbours = firstOf(answer.Neighbours, m.zone)
		answer.Holders = ids(holders)
		young := now.Sub(m.joined) < announceEvery
		switch {
		case young && b.alone(m):
			answer.Again = announceAlone
		case learning, young, b.alone(m), len(answer.Neighbours) < splitBelow && len(b.order)-len(b.complete) > len(answer.Neighbours)+1:
			answer.Again = announceSoon
		}
	}
	answer.Leases = b.leasesOf(m)
	if len(answer.Leases) == 0 && len(answer.Holders) == 0 && !m.complete {
		answer.NoSource = len(holders) == 0 && b.hopeless(m) && !learning
		answer.Wait = !answer.NoSource && len(answer.Neighbours) == 0 && !learning
	}
	m.again = answer.Again
	return answer
}

// firstOf shortens a list of neighbours to as many as are told, with at least some of other zones.
func firstOf(all []Neighbour, zone string) []Neighbour {
	if len(all) <= degree {
		return all
	}
	near := slices.IndexFunc(all, func(n Neighbour) bool { return n.Zone != zone })
	if near < 0 {
		return all[:degree]
	}
	near = min(near, max(degree-farLinks, degree-(len(all)-near)))
	far := slices.IndexFunc(all, func(n Neighbour) bool { return n.Zone != zone })
	return append(slices.Clone(all[:near]), all[far:min(len(all), far+degree-near)]...)
}

// alone tells whether a member has more than its share to itself, so that it should ask again soon.
func (b *blob) alone(m *member) bool {
	return len(m.leases) > 0 && len(b.order)-len(b.complete) == 1
}

// leasesOf gives a member's leases as byte ranges, with those that touch made one.
func (b *blob) leasesOf(m *member) []Lease {
	var out []Lease
	for _, l := range m.leases {
		start, _ := b.layout.Span(l.first)
		_, end := b.layout.Span(l.last - 1)
		if b.small() {
			start, end = 0, max(m.size, -1)
		}
		if n := len(out); n > 0 && out[n-1].End == start && out[n-1].From == l.from {
			out[n-1].End = end
			continue
		}
		out = append(out, Lease{Start: start, End: end, From: l.from})
	}
	return out
}

// holders gives members that hold the whole blob: the ones of the same zone first, then less used ones, at random.
func (b *blob) holders(now time.Time, m *member, known []Neighbour) []Neighbour {
	var out []Neighbour
	add := func(n Neighbour) {
		s := b.sources[n.Member]
		bad := n.Member == m.id || s != nil && s.suspect.After(now)
		if !bad && !slices.ContainsFunc(out, func(o Neighbour) bool { return o.Member == n.Member }) {
			out = append(out, n)
		}
	}
	for _, n := range known[:min(len(known), 4*maxHolders)] {
		if member := b.members[n.Member]; member == nil || member.complete {
			add(n)
		}
	}
	for i := range min(len(b.complete), 2*maxHolders) {
		c := b.complete[i]
		if len(b.complete) > 2*maxHolders {
			c = b.complete[b.cfg.Rand.IntN(len(b.complete))]
		}
		add(Neighbour{Member: c.id, Zone: c.zone})
	}
	b.cfg.Rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	slices.SortStableFunc(out, func(a, c Neighbour) int {
		if (a.Zone == m.zone) != (c.Zone == m.zone) {
			if a.Zone == m.zone {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.use(a.Member), b.use(c.Member))
	})
	return out[:min(len(out), maxHolders)]
}

// assignSmall is for blobs of one piece: one member fetches it, the others get it from who has it, as a tree whose
// nodes send to a few at once.
func (b *blob) assignSmall(now time.Time, m *member, holders []Neighbour, answer *Assignment) {
	if m.grant != "" && (m.stalled || now.Sub(m.granted) > b.cfg.Patience) {
		b.suspect(now, m.grant)
		b.release(m)
		holders = slices.DeleteFunc(holders, func(h Neighbour) bool { return b.source(h.Member).suspect.After(now) })
	}
	free := slices.DeleteFunc(slices.Clone(holders), func(h Neighbour) bool {
		return h.Member != m.grant && b.use(h.Member) >= fanOut
	})
	if len(free) > 0 && len(m.leases) == 0 {
		if i := slices.IndexFunc(free, func(h Neighbour) bool { return h.Member == m.grant }); i >= 0 {
			free[0], free[i] = free[i], free[0]
		} else {
			b.release(m)
			m.grant, m.granted = free[0].Member, now
			b.source(m.grant).used++
		}
		answer.Holders = ids(free)
		return
	}
	if len(holders) > 0 {
		return // All have enough to do: wait.
	}
	if b.leased[0] == 0 && b.mayGoUpstream(now, m) {
		b.lend(now, m, &lease{last: 1})
	}
	b.rescue(now, m, nil)
}

// hopeless tells whether there is nothing to wait for: nobody has what the member lacks, nobody is fetching it, and
// everybody who tried got a no. After several of them the others are not sent to try any more.
func (b *blob) hopeless(m *member) bool {
	for p := range b.copies {
		if b.leased[p] > 0 || b.copies[p] > 0 && !m.have.Has(p) {
			return false
		}
	}
	if len(b.complete) > 0 {
		return false
	}
	return b.refusals >= b.cfg.UpstreamLeases || !slices.ContainsFunc(b.order, func(o *member) bool { return o.upstream < Refused })
}

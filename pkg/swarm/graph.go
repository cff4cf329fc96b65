package swarm

import "slices"

const (
	// degree is with how many others a member exchanges pieces. With 8 a swarm of a thousand takes a third longer.
	degree = 16
	// farLinks is how many of them are of other zones, where there are any.
	farLinks = 4
	// splitBelow is the number of links below which a member gets in between two others that are linked.
	splitBelow = degree / 2
)

// Who exchanges pieces with whom is a random graph in which all have about the same degree, and links go both ways. It
// must stay random while it grows: if newcomers were linked to whoever has room, that would be the ones that came just
// before, and the graph would become a long chain of cliques. So a newcomer gets in between random members that are
// linked: it takes the place of a link, and they keep their degree. The zones' graphs grow in the same way, each by
// itself, with a few links between them.

func (b *blob) link(a, c *member) {
	a.links, c.links = append(a.links, c), append(c.links, a)
}

func (b *blob) cutLink(a, c *member) {
	a.links = slices.DeleteFunc(a.links, func(m *member) bool { return m == c })
	c.links = slices.DeleteFunc(c.links, func(m *member) bool { return m == a })
}

func (b *blob) unlink(m *member) {
	for len(m.links) > 0 {
		b.cutLink(m, m.links[0])
	}
}

// split counts a member's links within its zone and to others.
func (m *member) split() (near, far int) {
	for _, other := range m.links {
		if other.zone == m.zone {
			near++
		}
	}
	return near, len(m.links) - near
}

// meet gives a member the links that it lacks.
func (b *blob) meet(m *member) {
	if m.complete {
		return
	}
	zoned := slices.ContainsFunc(b.order, func(o *member) bool { return o.zone != m.zone && !o.complete })
	nearMost := degree
	if zoned {
		nearMost = degree - farLinks
	}
	near, far := m.split()
	got := b.meetSome(m, nearMost-near, nearMost, func(o *member) bool { return o.zone == m.zone })
	near += got
	if zoned {
		// A zone of few members has room for more links to others.
		b.meetSome(m, max(farLinks, degree-near)-far, max(farLinks, degree-near), func(o *member) bool { return o.zone != m.zone })
	}
}

// meetSome makes up to want links to members of a kind, of which each has at most so many.
func (b *blob) meetSome(m *member, want, most int, kind func(*member) bool) (got int) {
	suits := func(o *member) bool {
		return o != m && !o.complete && kind(o) && !slices.Contains(m.links, o)
	}
	// Few are looked through in full, many are sampled.
	candidates, tries := b.order, 8*max(0, want)
	for i := range tries {
		if want <= 0 {
			break
		}
		if len(candidates) <= 4*degree {
			if i == 0 {
				candidates = slices.Clone(candidates)
				b.cfg.Rand.Shuffle(len(candidates), func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
			}
			if i >= len(candidates) {
				break
			}
		}
		o := candidates[i%len(candidates)]
		if len(candidates) > 4*degree {
			o = candidates[b.cfg.Rand.IntN(len(candidates))]
		}
		if !suits(o) {
			continue
		}
		has := 0
		for _, other := range o.links {
			if (other.zone == o.zone) == (m.zone == o.zone) {
				has++
			}
		}
		if has < most && len(o.links) < degree+farLinks {
			b.link(m, o)
			want, got = want-1, got+1
			continue
		}
		if want < 2 || len(m.links) >= splitBelow && want < most/2 {
			continue
		}
		if c := b.between(m, o, kind, suits); c != nil {
			b.cutLink(o, c)
			b.link(m, o)
			b.link(m, c)
			want, got = want-2, got+2
		}
	}
	return got
}

// between gives a member that is linked to o, and whose link a newcomer may take the place of.
func (b *blob) between(m, o *member, kind, suits func(*member) bool) *member {
	if len(o.links) == 0 {
		return nil
	}
	from := b.cfg.Rand.IntN(len(o.links))
	for i := range o.links {
		c := o.links[(from+i)%len(o.links)]
		if suits(c) && (c.zone == o.zone) == (m.zone == o.zone) {
			return c
		}
	}
	return nil
}

package eviction

import (
	"slices"

	"github.com/kioo-dev/kioo/pkg/content"
)

// most gives what one owner may have on its way within a limit, while that of others takes so much of it: three
// quarters of what those leave. So one owner alone can have most of the room, and yet there is always some left for
// the next one, however many hold on to theirs: with two there are three sevenths for each. Switches share their
// buffers so (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
func most(limit, others int64) int64 {
	left := max(limit-others, 0)
	return left - left/4
}

// sure gives how much of what he has no owner loses to others: half of an equal share of the room. What those leave of
// it who have less is shared equally by the others, so that many who have little make it small for nobody.
//
// The other half of the room is for whoever's blobs are asked for most. With all of it in equal shares, an owner that
// hardly anybody asks for keeps as much as the one that everybody wants, and a third of the hits is lost by that.
func (p *Policy) sure() int64 {
	all := make([]int64, 0, len(p.accounts))
	for _, a := range p.accounts {
		all = append(all, a.total())
	}
	slices.Sort(all)
	left := min(p.bounds.Bytes, p.sum.total()) / 2
	for i, total := range all {
		level := left / int64(len(all)-i)
		if total >= level {
			return level
		}
		left -= total
	}
	return left
}

// attainable gives how many bytes on their way an owner can have at most, if all is evicted for them that may be.
func (p *Policy) attainable(own *account) int64 {
	sure := p.sure()
	fits := func(n int64) bool {
		left := p.bounds.Bytes - n
		for _, a := range p.accounts {
			if a != own {
				left -= max(min(a.total(), sure), min(a.in(Small), n))
			}
		}
		return left >= 0
	}
	least, most := int64(0), p.bounds.Bytes
	for least < most {
		if middle := most - (most-least)/2; fits(middle) {
			least = middle
		} else {
			most = middle - 1
		}
	}
	return least
}

// Budget is room that is shared by owners' blobs on their way, and that nothing stays in. It is not safe for concurrent
// use.
type Budget struct {
	limit int64
	used  int64
	all   map[content.Owner]*spent
}

type spent struct {
	announced, used int64
	claims          int
}

// NewBudget makes a Budget of so many bytes.
func NewBudget(limit int64) *Budget {
	return &Budget{limit: limit, all: make(map[content.Owner]*spent)}
}

// Claim is what one blob on its way has of a Budget.
type Claim struct {
	budget *Budget
	owner  content.Owner
	size   int64
	used   int64
}

// Claim gives a blob of that many bytes a claim, which takes nothing yet; nil if there would be no room for all of it.
// What the owner has announced counts, and of others only what they have taken: so nobody is kept out by mere words.
func (b *Budget) Claim(owner content.Owner, size int64) *Claim {
	s := b.all[owner]
	if s == nil {
		s = &spent{}
	}
	if size > most(b.limit, b.used-s.used)-s.announced {
		return nil
	}
	b.all[owner] = s
	s.announced += size
	s.claims++
	return &Claim{budget: b, owner: owner, size: size}
}

// Take takes more of what was claimed, and tells whether it is there.
func (c *Claim) Take(n int64) bool {
	b, s := c.budget, c.budget.all[c.owner]
	if n > c.size-c.used || n > most(b.limit, b.used-s.used)-s.used {
		return false
	}
	c.used += n
	s.used += n
	b.used += n
	return true
}

// End gives everything back.
func (c *Claim) End() {
	b, s := c.budget, c.budget.all[c.owner]
	b.used -= c.used
	s.used -= c.used
	s.announced -= c.size
	s.claims--
	if s.claims == 0 {
		delete(b.all, c.owner)
	}
}

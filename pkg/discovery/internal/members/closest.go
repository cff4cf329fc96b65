package members

import (
	"slices"
	"sort"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Closest gives the n members closest to a place, this one included, the closest first. Suspects are left out.
func (t *Table) Closest(place wire.Place, n int) []wire.Member {
	return membersOf(t.closest(&place, n, nil))
}

// ClosestIDs is like Closest for who needs no more than identities; it appends them to ids.
func (t *Table) ClosestIDs(ids []peer.ID, place wire.Place, n int) []peer.ID {
	t.walk(t.sorted, &place, func(e *entry) bool {
		ids = append(ids, e.member.ID)
		n--
		return n > 0
	})
	return ids
}

// Closer gives up to n members that are closer to a place than this one and known to be alive, without those
// excluded.
func (t *Table) Closer(place wire.Place, n int, exclude []peer.ID) []wire.Member {
	var found []*entry
	t.walk(t.sorted, &place, func(e *entry) bool {
		if e.member.ID == t.cfg.Self.ID {
			return false
		}
		if e.status == live && !slices.Contains(exclude, e.member.ID) {
			found = append(found, e)
		}
		return len(found) < n
	})
	return membersOf(found)
}

// Greeting names the members that a newcomer should know: those closest to it, and some at random.
func (t *Table) Greeting(to peer.ID) []wire.Member {
	place := wire.PlaceOf(to)
	known := func(e *entry) bool {
		return e.status == live && e.member.ID != to && e.member.ID != t.cfg.Self.ID
	}
	named := t.closest(&place, Neighbours, known)
	for tries := 0; len(named) < greeted && tries < 2*greeted; tries++ {
		if e := t.sorted[t.cfg.Rand.IntN(len(t.sorted))]; known(e) && !slices.Contains(named, e) {
			named = append(named, e)
		}
	}
	return membersOf(named)
}

// Members gives all members that are believed alive, without this one, in no order.
func (t *Table) Members() []wire.Member {
	all := make([]wire.Member, 0, len(t.sorted))
	for _, e := range t.sorted {
		if e.member.ID != t.cfg.Self.ID {
			all = append(all, e.member)
		}
	}
	return all
}

// Get gives a member that is believed alive, this one included.
func (t *Table) Get(id peer.ID) (wire.Member, bool) {
	if id == t.cfg.Self.ID {
		return t.cfg.Self, true
	}
	if e, ok := t.entries[id]; ok && e.candidate() {
		return e.member, true
	}
	return wire.Member{}, false
}

// Dead says that a member is known and held for dead.
func (t *Table) Dead(id peer.ID) bool {
	if e, ok := t.entries[id]; ok {
		return e.status == suspect
	}
	_, gone := t.gone[id]
	return gone
}

// Live says that this member has spoken to that one and has no reason to doubt it.
func (t *Table) Live(id peer.ID) bool {
	e, ok := t.entries[id]
	return ok && e.status == live
}

// Count gives how many other members are live, learned and suspect.
func (t *Table) Count() (alive, heard, suspects int) {
	for _, e := range t.entries {
		switch e.status {
		case live:
			alive++
		case learned:
			heard++
		case suspect:
			suspects++
		case stranger:
		}
	}
	return alive, heard, suspects
}

func (t *Table) closest(place *wire.Place, n int, want func(*entry) bool) []*entry {
	found := make([]*entry, 0, min(n, len(t.sorted)))
	if n <= 0 {
		return found
	}
	t.walk(t.sorted, place, func(e *entry) bool {
		if want == nil || want(e) {
			found = append(found, e)
		}
		return len(found) < n
	})
	return found
}

// walk visits sorted entries from the closest to target on until visit returns false. The entries whose first bits
// agree form a range, so that the walk descends a binary trie that nobody had to build.
func (t *Table) walk(entries []*entry, target *wire.Place, visit func(*entry) bool) bool {
	switch len(entries) {
	case 0:
		return true
	case 1:
		return visit(entries[0])
	}
	bit := entries[0].place.Common(&entries[len(entries)-1].place)
	split := sort.Search(len(entries), func(i int) bool { return entries[i].place.Bit(bit) == 1 })
	near, far := entries[:split], entries[split:]
	if target.Bit(bit) == 1 {
		near, far = far, near
	}
	return t.walk(near, target, visit) && t.walk(far, target, visit)
}

func membersOf(entries []*entry) []wire.Member {
	out := make([]wire.Member, len(entries))
	for i, e := range entries {
		out[i] = e.member
	}
	return out
}

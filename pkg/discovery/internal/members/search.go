package members

import (
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxHops is how many redirects are followed. With thousands of members three are enough.
	maxHops = 4
	// maxLost is how many members may fail to answer before the search asks the routing for others.
	maxLost = 3
	// Seconds is how many of the next closest are asked where the closest may not know everything.
	seconds = 2
)

// Phase is what a search wants next.
type Phase uint8

// The phases of a search.
const (
	// Ask: ask the members of the step, all at once, and tell their answers.
	Ask Phase = iota + 1
	// Route: too many members were lost; look for others by Kademlia's own means, once, then go on.
	Route
	// Done: the answers that came are all there will be.
	Done
)

// Step is what to do next.
type Step struct {
	Phase Phase
	Ask   []peer.ID
}

// Search finds the member closest to a place: it asks the closest one known, which names closer ones, until the
// closest one known has answered. Where that answer can't be trusted to be complete, the next closest are asked too.
type Search struct {
	place   wire.Place
	asked   map[peer.ID]bool
	hops    int
	lost    int
	routed  bool
	doubt   bool
	doubled bool
}

// NewSearch starts a search.
func NewSearch(place wire.Place) *Search { return &Search{place: place, asked: map[peer.ID]bool{}} }

// Want is how many candidates Next needs to see at least.
func (s *Search) Want() int { return len(s.asked) + 1 + seconds }

// Next says what to do, given the candidates closest to the place, the closest first, those without failures.
func (s *Search) Next(closest []peer.ID) Step {
	if s.lost >= maxLost && !s.routed {
		s.routed = true
		return Step{Phase: Route}
	}
	if s.lost >= 2*maxLost || len(closest) == 0 {
		return Step{Phase: Done}
	}
	if first := closest[0]; !s.asked[first] && s.hops <= maxHops {
		return s.ask(first)
	}
	if !s.doubt && s.hops <= maxHops || s.doubled {
		return Step{Phase: Done}
	}
	s.doubled = true
	var next []peer.ID
	for _, id := range closest[1:] {
		if !s.asked[id] && len(next) < seconds {
			next = append(next, id)
		}
	}
	if len(next) == 0 {
		return Step{Phase: Done}
	}
	return s.ask(next...)
}

func (s *Search) ask(ids ...peer.ID) Step {
	for _, id := range ids {
		s.asked[id] = true
	}
	return Step{Phase: Ask, Ask: ids}
}

// Answered takes in that a member answered, whether it is fresh, and whom it knows to be closer. It gives those that
// are worth learning: strictly closer than who named them, so that a search can't go in circles.
func (s *Search) Answered(from peer.ID, fresh bool, named []wire.Member) []wire.Member {
	s.doubt = s.doubt || fresh
	place := wire.PlaceOf(from)
	var closer []wire.Member
	for _, m := range named {
		if p := wire.PlaceOf(m.ID); !s.asked[m.ID] && p.Closer(&place, &s.place) {
			closer = append(closer, m)
		}
	}
	if len(closer) > 0 {
		s.hops++
	}
	return closer
}

// Lost takes in that a member did not answer. Whoever stands in for it may know less.
func (s *Search) Lost() {
	s.lost++
	s.doubt = true
}

// Redirects says how many redirects were followed.
func (s *Search) Redirects() int { return s.hops }

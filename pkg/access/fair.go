package access

import (
	"container/list"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// ranks is how many ranks entries of a fair memory may have.
const ranks = 3

// fair is a bounded memory of what registries said. Names of registries and repositories come from clients, and anybody
// can run a registry, so a bound that all share would let one registry's names push out another's. Room is made within
// the owner that takes most of it, there within its greediest registry, and there from the lowest rank, oldest use
// first.
//
// It is not safe for concurrent use.
type fair[K comparable, V any] struct {
	most     int
	registry func(K, V) string
	rank     func(V) int
	// lost is told of what is given up for want of room.
	lost func(K, V)

	entries map[K]*list.Element
	owners  map[string]*owner
	greedy  ladder[*owner]
}

// owner is who holds some registries' names: see reference.Owner.
type owner struct {
	name       string
	registries map[string]*share
	greedy     ladder[*share]
	step       step
}

func (o *owner) at() *step { return &o.step }

// share is what a registry takes of the room.
type share struct {
	registry string
	ranked   [ranks]list.List // The entry that was used last is in front.
	step     step
}

func (s *share) at() *step { return &s.step }

type entry[K comparable, V any] struct {
	key   K
	value V
	rank  int
	owner *owner
	share *share
}

func newFair[K comparable, V any](most int, registry func(K, V) string, rank func(V) int) *fair[K, V] {
	return &fair[K, V]{
		most: most, registry: registry, rank: rank, lost: func(K, V) {},
		entries: map[K]*list.Element{}, owners: map[string]*owner{},
	}
}

// place finds or makes the share of a registry.
func (f *fair[K, V]) place(registry string) (*owner, *share) {
	name := reference.Owner(registry)
	o := f.owners[name]
	if o == nil {
		o = &owner{name: name, registries: map[string]*share{}}
		f.owners[name] = o
	}
	s := o.registries[registry]
	if s == nil {
		s = &share{registry: registry}
		o.registries[registry] = s
	}
	return o, s
}

// get looks up a key and counts it as a use.
func (f *fair[K, V]) get(key K) (V, bool) {
	if at, ok := f.entries[key]; ok {
		e := at.Value.(*entry[K, V])
		e.share.ranked[e.rank].MoveToFront(at)
		return e.value, true
	}
	var none V
	return none, false
}

// peek looks up a key without counting it as a use.
func (f *fair[K, V]) peek(key K) (V, bool) {
	if at, ok := f.entries[key]; ok {
		return at.Value.(*entry[K, V]).value, true
	}
	var none V
	return none, false
}

// put sets what a key means, and makes room if that is one too many.
func (f *fair[K, V]) put(key K, value V) {
	f.drop(key)
	o, s := f.place(f.registry(key, value))
	e := &entry[K, V]{key, value, f.rank(value), o, s}
	f.entries[key] = s.ranked[e.rank].PushFront(e)
	o.greedy.move(s, 1)
	f.greedy.move(o, 1)
	if len(f.entries) > f.most {
		f.giveUp()
	}
}

func (f *fair[K, V]) drop(key K) {
	at, ok := f.entries[key]
	if !ok {
		return
	}
	delete(f.entries, key)
	e := at.Value.(*entry[K, V])
	e.share.ranked[e.rank].Remove(at)
	e.owner.greedy.move(e.share, -1)
	f.greedy.move(e.owner, -1)
	if e.share.step.count == 0 {
		delete(e.owner.registries, e.share.registry)
	}
	if e.owner.step.count == 0 {
		delete(f.owners, e.owner.name)
	}
}

// giveUp lets go of one entry.
func (f *fair[K, V]) giveUp() {
	most := f.greedy.most().greedy.most()
	for rank := range most.ranked {
		if last := most.ranked[rank].Back(); last != nil {
			e := last.Value.(*entry[K, V])
			f.drop(e.key)
			f.lost(e.key, e.value)
			return
		}
	}
}

// all calls each with every entry, in no order.
func (f *fair[K, V]) all(each func(K, V)) {
	for key, at := range f.entries {
		each(key, at.Value.(*entry[K, V]).value)
	}
}

// ladder knows which of some things has most, in constant time as counts change by one. The zero value is empty.
type ladder[T interface{ at() *step }] struct {
	steps map[int]*list.List // Of T, by count. Those with none are on no step.
	top   int
}

// step is where something stands on a ladder.
type step struct {
	count int
	place *list.Element
}

func (l *ladder[T]) move(t T, by int) {
	if l.steps == nil {
		l.steps = map[int]*list.List{}
	}
	s := t.at()
	if s.count > 0 {
		if l.steps[s.count].Remove(s.place); l.steps[s.count].Len() == 0 {
			delete(l.steps, s.count)
		}
	}
	if s.count += by; s.count > 0 {
		if l.steps[s.count] == nil {
			l.steps[s.count] = list.New()
		}
		s.place = l.steps[s.count].PushFront(t)
	}
	l.top = max(l.top, s.count)
	for l.top > 0 && l.steps[l.top] == nil {
		l.top--
	}
}

// most gives the one with the highest count, of several the one that got there first. There must be one.
func (l *ladder[T]) most() T { return l.steps[l.top].Back().Value.(T) }

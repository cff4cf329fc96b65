package eviction

import (
	"container/list"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

var owners = []content.Owner{"", "a.example", "b.example", "c.example"}

// rivals does the same things to a Policy and to its model.
type rivals struct {
	p      *Policy
	m      model
	random *rand.Rand
	now    time.Time

	held     map[digest.Digest]*Blob
	pinned   []*Blob
	twins    map[*Blob]*modelBlob
	arrivals []*Arrival
}

func newRivals(seed uint64, bounds Bounds) *rivals {
	return &rivals{
		p: New(bounds), m: model{bounds: bounds}, random: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0),
		held: map[digest.Digest]*Blob{}, twins: map[*Blob]*modelBlob{},
	}
}

func (r *rivals) owner() content.Owner { return owners[r.random.IntN(len(owners))] }

// any gives a blob that is held. The order of a map's keys is not the same each time, so these are sorted.
func (r *rivals) any() *Blob {
	var all []digest.Digest
	for dgst := range r.held {
		all = append(all, dgst)
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return r.held[all[r.random.IntN(len(all))]]
}

// TestPolicyAgainstModel does the same random things to a Policy and to its model, and looks after each that they are
// of one mind, that the bounds hold, and that nothing goes that is being read.
func TestPolicyAgainstModel(t *testing.T) {
	for seed := range uint64(500) {
		r := newRivals(seed, Bounds{Bytes: 400, Blobs: 14})
		for step := range 400 {
			r.now = r.now.Add(time.Duration(r.random.IntN(90)) * time.Second)
			operation := r.random.IntN(10)
			err := r.step(operation)
			if err == nil {
				err = r.compare()
			}
			if err != nil {
				t.Fatalf("seed %d, step %d, operation %d: %v", seed, step, operation, err)
			}
		}
	}
}

func (r *rivals) step(operation int) error {
	switch operation {
	case 0, 1:
		owner, size := r.owner(), r.random.Int64N(120)
		if r.random.IntN(20) == 0 {
			size = r.random.Int64N(1 << 62)
		}
		a, victims, ok := r.p.Begin(owner, size)
		want, twin := r.m.begin(owner, size)
		if ok {
			r.arrivals = append(r.arrivals, a)
		}
		return r.gone(victims, ok, want, twin != nil)
	case 2, 3, 4:
		return r.grow()
	case 5:
		r.end()
	case 6:
		if b := r.any(); b != nil {
			r.use(b)
		}
	case 7:
		r.pin()
	case 8:
		r.change()
	case 9:
		n, owner := r.random.Int64N(100), r.owner()
		victims := r.p.Free(owner, n)
		all := r.m.all()
		if n > all.bytes-all.pinned {
			return r.gone(victims, true, nil, true)
		}
		target := all.bytes - n
		want, _ := r.m.evict(func() bool { return r.m.all().bytes > target }, r.m.payers(owner, n))
		return r.gone(victims, true, want, true)
	}
	return nil
}

// gone compares what is evicted.
func (r *rivals) gone(victims []*Blob, ok bool, want []digest.Digest, wantOK bool) error {
	var got []digest.Digest
	for _, b := range victims {
		got = append(got, b.Digest)
		if b.pins > 0 || b.Held() {
			return fmt.Errorf("%s is evicted, and is read or held", b.Digest)
		}
		delete(r.held, b.Digest)
	}
	if ok != wantOK || !slices.Equal(got, want) {
		return fmt.Errorf("evicted %v, %v, want %v, %v", got, ok, want, wantOK)
	}
	return nil
}

// grow has more come of what is on its way; where all is there, it is held.
func (r *rivals) grow() error {
	if len(r.arrivals) == 0 {
		return nil
	}
	i := r.random.IntN(len(r.arrivals))
	a, twin := r.arrivals[i], r.m.arrivals[i]
	n := r.random.Int64N(50)
	if r.random.IntN(2) == 0 {
		n = a.size - a.reserved
	}
	room := r.p.Room(a, n)
	victims, ok := r.p.Grow(a, n)
	if room && (len(victims) > 0 || !ok) {
		return fmt.Errorf("Room for %d, and yet: %d victims, %v", n, len(victims), ok)
	}
	want, wantOK := r.m.grow(twin, n)
	return r.gone(victims, ok, want, wantOK)
}

// end ends what is on its way: it is held then if it is complete, unless such a blob is held.
func (r *rivals) end() {
	if len(r.arrivals) == 0 {
		return
	}
	i := r.random.IntN(len(r.arrivals))
	a := r.arrivals[i]
	owner, complete := a.account.owner, a.reserved == a.size
	r.arrivals = slices.Delete(r.arrivals, i, i+1)
	r.m.arrivals = slices.Delete(r.m.arrivals, i, i+1)
	r.p.End(a)
	dgst := digest.Digest(strconv.FormatInt(a.size, 10) + "-" + strconv.Itoa(r.random.IntN(2)))
	if complete && r.held[dgst] == nil {
		b := &Blob{Digest: dgst, Owner: owner, Size: a.size, LastUse: r.now}
		r.p.Insert(b)
		r.held[dgst] = b
		r.m.insert(dgst, owner, a.size, r.now)
		r.twins[b], _, _ = r.m.find(dgst)
	}
}

func (r *rivals) use(b *Blob) {
	r.p.Use(b, r.now)
	if twin := r.twins[b]; r.now.Sub(twin.counted) >= time.Minute {
		twin.counted = r.now
		twin.uses = min(twin.uses+1, 3)
	}
}

// pin pins something, or lets go of it.
func (r *rivals) pin() {
	if b := r.any(); b != nil && r.random.IntN(2) == 0 {
		r.p.Pin(b)
		r.twins[b].pins++
		r.pinned = append(r.pinned, b)
		return
	}
	if len(r.pinned) == 0 {
		return
	}
	i := r.random.IntN(len(r.pinned))
	b := r.pinned[i]
	twin := r.twins[b]
	r.pinned = slices.Delete(r.pinned, i, i+1)
	r.p.Unpin(b)
	if twin.pins--; twin.pins == 0 {
		r.m.gone = slices.DeleteFunc(r.m.gone, func(g *modelBlob) bool { return g == twin })
	}
}

// change removes a blob, or has another owner bring it.
func (r *rivals) change() {
	b := r.any()
	if b == nil {
		return
	}
	if r.random.IntN(4) == 0 {
		r.p.Remove(b)
		delete(r.held, b.Digest)
		r.m.remove(b.Digest)
		return
	}
	owner := r.owner()
	r.p.Charge(b, r.p.Fairest(b, owner))
	twin, s, i := r.m.find(b.Digest)
	mine, theirs := r.m.of(twin.owner), r.m.of(owner)
	if theirs.bytes+theirs.reserved+twin.size < mine.bytes+mine.reserved && owner != twin.owner {
		twin.owner = owner
		r.m.held[s] = append(slices.Delete(r.m.held[s], i, i+1), twin)
	}
}

func (r *rivals) compare() error {
	all := r.m.all()
	got := totals{
		bytes: r.p.sum.bytes, pinned: r.p.sum.pinnedBytes, reserved: r.p.sum.reserved, announced: r.p.sum.announced,
		small: r.p.sum.in(Small), blobs: r.p.sum.blobs, pinnedBlobs: r.p.sum.pinnedBlobs, arriving: r.p.sum.arriving,
	}
	switch {
	case got != all:
		return fmt.Errorf("sums are %+v, want %+v", got, all)
	case all.bytes+all.reserved > r.m.bounds.Bytes || all.blobs+all.arriving > r.m.bounds.Blobs:
		return fmt.Errorf("%+v is above the bounds", all)
	case len(r.held) != all.blobs:
		return fmt.Errorf("%d blobs, want %d", all.blobs, len(r.held))
	case len(r.p.ghosts) != len(r.m.ghosts):
		return fmt.Errorf("%d ghosts, want %d", len(r.p.ghosts), len(r.m.ghosts))
	case len(r.p.accounts) > len(owners):
		return fmt.Errorf("%d owners", len(r.p.accounts))
	}
	for _, o := range owners {
		want := r.m.of(o)
		a := r.p.accounts[o]
		if a == nil {
			a = &account{}
		}
		if a.total() != want.bytes+want.reserved || a.in(Small) != want.small || a.pinnedBytes != want.pinned {
			return fmt.Errorf("%q has %+v, want %+v", o, a, want)
		}
		for s, queue := range r.m.held {
			var order, wanted []digest.Digest
			for _, b := range queue {
				if b.owner == o {
					wanted = append(wanted, b.digest)
				}
			}
			for place := back(a.queues[s]); place != nil; place = place.Prev() {
				order = append(order, place.Value.(*Blob).Digest)
			}
			if !slices.Equal(order, wanted) {
				return fmt.Errorf("queue %d of %q is %v, want %v", s, o, order, wanted)
			}
		}
	}
	return nil
}

func back(l *list.List) *list.Element {
	if l == nil {
		return nil
	}
	return l.Back()
}

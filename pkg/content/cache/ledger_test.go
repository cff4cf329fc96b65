package cache

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// model is a ledger that is too simple to be wrong: lists that are searched from end to end.
type model struct {
	limits limits
	held   []modelBlob // The least recently used first.
	gone   []modelBlob // No longer held, but read.
	going  []int64     // Sizes of blobs on their way.
	spool  []int64
}

type modelBlob struct {
	digest digest.Digest
	size   int64
	pins   int
}

func (m *model) bytes() (all, pinned, reserved int64) {
	for _, b := range slices.Concat(m.held, m.gone) {
		all += b.size
		if b.pins > 0 {
			pinned += b.size
		}
	}
	for _, size := range m.going {
		reserved += size
	}
	return all, pinned, reserved
}

func (m *model) find(dgst digest.Digest) int {
	return slices.IndexFunc(m.held, func(b modelBlob) bool { return b.digest == dgst })
}

func (m *model) remove(i int) {
	b := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	if b.pins > 0 {
		m.gone = append(m.gone, b)
	}
}

func (m *model) add(dgst digest.Digest, size int64) {
	if i := m.find(dgst); i >= 0 {
		m.remove(i)
	}
	m.held = append(m.held, modelBlob{dgst, size, 0})
}

func (m *model) use(dgst digest.Digest) bool {
	i := m.find(dgst)
	if i < 0 {
		return false
	}
	b := m.held[i]
	b.pins++
	m.held = append(slices.Delete(m.held, i, i+1), b)
	return true
}

// unpin takes one pin from a blob, of those of its digest the one that was held the last or still is.
func (m *model) unpin(dgst digest.Digest, held bool) {
	list := &m.held
	if !held {
		list = &m.gone
	}
	i := slices.IndexFunc(*list, func(b modelBlob) bool { return b.digest == dgst && b.pins > 0 })
	(*list)[i].pins--
	if !held && (*list)[i].pins == 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

// reserve gives which blobs have to go, and whether the space is there then.
func (m *model) reserve(size int64) ([]digest.Digest, bool) {
	trial := model{limits: m.limits, held: slices.Clone(m.held), gone: slices.Clone(m.gone), going: m.going}
	var victims []digest.Digest
	for {
		all, _, reserved := trial.bytes()
		if all+reserved+size <= m.limits.bytes && len(trial.held)+len(trial.going)+1 <= m.limits.blobs {
			break
		}
		i := slices.IndexFunc(trial.held, func(b modelBlob) bool { return b.pins == 0 })
		if i < 0 {
			return nil, false
		}
		victims = append(victims, trial.held[i].digest)
		trial.remove(i)
	}
	m.held, m.gone = trial.held, trial.gone
	m.going = append(m.going, size)
	return victims, true
}

func digests(victims []*entry) []digest.Digest {
	var all []digest.Digest
	for _, e := range victims {
		all = append(all, e.digest)
	}
	return all
}

// rivals does the same things to a ledger and to its model.
type rivals struct {
	l      *ledger
	m      model
	random *rand.Rand
	names  []digest.Digest
	pins   []*entry
}

// size is what the blob of a digest has.
func (r *rivals) size(dgst digest.Digest) int64 {
	return int64(dgst.Encoded()[0]) * int64(dgst.Encoded()[1]) % 260
}

// TestLedgerAgainstModel does the same random things to a ledger and to the model.
func TestLedgerAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		bounds := limits{bytes: 1000, spool: 300, blobs: 12, tags: 5}
		r := rivals{l: newLedger(bounds), m: model{limits: bounds}, random: rand.New(rand.NewPCG(seed, 1))}
		for i := range 20 {
			r.names = append(r.names, digest.FromString(strconv.Itoa(i)))
		}
		for step := range 400 {
			operation := r.random.IntN(6)
			err := r.step(operation, r.names[r.random.IntN(len(r.names))], time.Unix(int64(step), 0))
			if err == nil {
				err = compare(r.l, &r.m)
			}
			if err != nil {
				t.Fatalf("seed %d, step %d, operation %d: %v", seed, step, operation, err)
			}
		}
	}
}

func (r *rivals) step(operation int, dgst digest.Digest, now time.Time) error {
	switch operation {
	case 0: // A blob comes on its way.
		victims, ok := r.l.reserve(r.size(dgst), true)
		want, wantOK := r.m.reserve(r.size(dgst))
		if ok != wantOK || !slices.Equal(digests(victims), want) {
			return fmt.Errorf("reserve gave %v, %v, want %v, %v", digests(victims), ok, want, wantOK)
		}
	case 1:
		r.end(now)
	case 2:
		e := r.l.use(dgst, now)
		if want := r.m.use(dgst); (e != nil) != want {
			return fmt.Errorf("use gave %v, want %v", e, want)
		}
		if e != nil {
			r.pins = append(r.pins, e)
		}
	case 3:
		r.unpin()
	case 4: // A blob is removed, more rarely than others come.
		if i := r.m.find(dgst); i >= 0 && r.random.IntN(3) == 0 {
			r.l.remove(r.l.blobs[dgst])
			r.m.remove(i)
		}
	case 5:
		if size := int64(r.random.IntN(200)); r.random.IntN(2) == 0 && r.l.spool(size) {
			r.m.spool = append(r.m.spool, size)
		} else if len(r.m.spool) > 0 {
			r.l.unspool(r.m.spool[0])
			r.m.spool = r.m.spool[1:]
		}
	}
	return nil
}

// end ends what is on its way: mostly it is held then, even where a blob of that digest was held already.
func (r *rivals) end(now time.Time) {
	if len(r.m.going) == 0 {
		return
	}
	i := r.random.IntN(len(r.m.going))
	size := r.m.going[i]
	r.m.going = slices.Delete(r.m.going, i, i+1)
	r.l.release(size)
	same := slices.IndexFunc(r.names, func(d digest.Digest) bool { return r.size(d) == size })
	if r.random.IntN(4) > 0 {
		r.l.add(r.names[same], size, "", now)
		r.m.add(r.names[same], size)
	}
}

// unpin lets go of a random pin, unless the model could not tell whose it is: entries of one digest that are all gone.
func (r *rivals) unpin() {
	if len(r.pins) == 0 {
		return
	}
	i := r.random.IntN(len(r.pins))
	e := r.pins[i]
	rival := func(o *entry) bool { return o != e && o.digest == e.digest && !o.held() }
	if !e.held() && slices.ContainsFunc(r.pins, rival) {
		return
	}
	r.pins = slices.Delete(r.pins, i, i+1)
	r.l.unpin(e)
	r.m.unpin(e.digest, e.held())
}

func compare(l *ledger, m *model) error {
	all, inUse, reserved := m.bytes()
	var order []digest.Digest
	for place := l.recent.Back(); place != nil; place = place.Prev() {
		order = append(order, place.Value.(*entry).digest)
	}
	var want []digest.Digest
	inUseBlobs := 0
	for _, b := range m.held {
		want = append(want, b.digest)
		if b.pins > 0 {
			inUseBlobs++
		}
	}
	var spooled int64
	for _, size := range m.spool {
		spooled += size
	}
	switch {
	case l.bytes != all || l.pinnedBytes != inUse || l.reserved != reserved || l.spooled != spooled:
		return fmt.Errorf("bytes %d, pinned %d, reserved %d, spooled %d, want %d, %d, %d, %d",
			l.bytes, l.pinnedBytes, l.reserved, l.spooled, all, inUse, reserved, spooled)
	case l.bytes+l.reserved > l.limits.bytes || l.spooled > l.limits.spool:
		return fmt.Errorf("%d+%d bytes and %d of the spool are above the bounds", l.bytes, l.reserved, l.spooled)
	case len(l.blobs)+l.arriving > l.limits.blobs || l.arriving != len(m.going) || l.pinnedBlobs != inUseBlobs:
		return fmt.Errorf("%d blobs, %d arriving, %d pinned, want %d, %d, %d", len(l.blobs), l.arriving, l.pinnedBlobs,
			len(m.held), len(m.going), inUseBlobs)
	case !slices.Equal(order, want) || len(l.blobs) != len(want):
		return fmt.Errorf("order of use is %v, want %v", order, want)
	}
	return nil
}

func TestLedgerHugeSizes(t *testing.T) {
	l := newLedger(limits{bytes: 1 << 62, spool: 1 << 62, blobs: 10})
	for i, size := range []int64{1 << 62, 1 << 62, 1<<63 - 1, 1} {
		if _, ok := l.reserve(size, true); ok != (i == 0) {
			t.Errorf("reserve %d gave %v, with %d reserved", size, ok, l.reserved)
		}
		if ok := l.spool(size); ok != (i == 0) {
			t.Errorf("spool %d gave %v, with %d spooled", size, ok, l.spooled)
		}
	}
}

func TestLedgerTags(t *testing.T) {
	l := newLedger(limits{bytes: 1, blobs: 1, tags: 3})
	tag := func(i int) content.Tag {
		return content.Tag{Target: ocispec.Descriptor{Digest: digest.FromString(strconv.Itoa(i))}}
	}
	for i, name := range []string{"a", "b", "c"} {
		if !l.setTag(name, tag(i)) {
			t.Errorf("a new tag is no news")
		}
	}
	if l.setTag("a", tag(0)) {
		t.Error("a confirmation is news")
	}
	if !l.setTag("b", tag(9)) {
		t.Error("a tag that moved is no news")
	}
	l.setTag("d", tag(3)) // "c" was confirmed the longest ago.
	for name, want := range map[string]bool{"a": true, "b": true, "c": false, "d": true} {
		if _, ok := l.tag(name); ok != want {
			t.Errorf("tag %s is known: %v, want %v", name, ok, want)
		}
	}
	batch := l.takeChanges()
	if batch.tags["c"] != nil || batch.tags["b"].Target.Digest != tag(9).Target.Digest || len(batch.tags) != 4 {
		t.Errorf("changes are %v", batch.tags)
	}
	if !l.takeChanges().empty() {
		t.Error("changes are taken twice")
	}
	l.giveBack(batch)
	l.deleteTag("b")
	if again := l.takeChanges(); again.tags["b"] != nil || again.tags["a"] == nil {
		t.Errorf("changes that were given back are %v", again.tags)
	}
}

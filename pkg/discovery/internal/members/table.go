// Package members owns what a member knows of the others: who there is, who is alive, who is closest to a place, whom
// to contact next and how to find the closest member of all.
//
// It is pure: no goroutine, no clock, no network. Nothing in it is safe for concurrent use.
package members

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// Neighbours is how many of the members closest to this one are always to be known in person, as in a k-bucket.
	Neighbours = 20

	// greeted is how many members are named to a newcomer: its neighbours and some others, so that a small fleet
	// knows itself at once.
	greeted = 32

	// freshFor is how long a member that joined refers others to the next closest before nobody has something.
	freshFor = 30 * time.Second

	// A suspect is contacted after one second, then after twice as long each time up to retryMost; after maxFails
	// failures, some quarter of a minute, it is gone.
	retryFirst = time.Second
	retryMost  = 15 * time.Second
	maxFails   = 5

	// courtesy is how long the one of two members that is higher leaves it to the other to make contact. In a fleet
	// that starts at once each hears of the other at the same moment, and they would pay for two handshakes.
	courtesy = time.Second

	// reportFor is how long a report by a user of this package counts for more than signs of life here: what was
	// reported is another port's silence.
	reportFor = 15 * time.Second

	// forgetAfter is how long hearsay does not bring back who is gone.
	forgetAfter = 2 * time.Minute
)

// status is how well a member is known.
type status uint8

const (
	// stranger is connected, but has not said who it is.
	stranger status = iota
	// learned was named by another member. It is worth a try, but nobody is referred to it.
	learned
	// live has spoken to this member itself.
	live
	// suspect did not answer. It takes no part until it does.
	suspect
)

type entry struct {
	member wire.Member
	place  wire.Place
	status status
	due    time.Time // When to contact it; zero means no need.
	busy   bool      // A contact is under way; how it ends is told by Heard, Failed or Report.
	fails  int
	held   time.Time // Until then a report of its death stands.
	// teller is who named it, as long as it has not spoken itself.
	teller peer.ID
	// hint is what others say of a later life of one that is live: it counts once this life has not answered.
	hint *wire.Member
}

func (e *entry) candidate() bool { return e.status == learned || e.status == live }

type tombstone struct {
	epoch   uint64
	until   time.Time
	goodbye bool
}

// Config says what a Table starts from.
type Config struct {
	// Self is this member.
	Self wire.Member
	// Max bounds how many members are known. Beyond it hearsay is ignored, and so is one member's beyond a quarter of it,
	// so that nobody fills the table with members that are not there. There is as much room again for those that speak
	// themselves.
	Max int
	// Rand is the source of samples.
	Rand *rand.Rand
}

// Table knows the members.
type Table struct {
	cfg        Config
	place      wire.Place
	entries    map[peer.ID]*entry
	told       map[peer.ID]int // How many entries have that teller.
	sorted     []*entry        // All candidates and self, ordered by place.
	gone       map[peer.ID]tombstone
	joined     time.Time
	generation uint64
	live       int
}

// New makes a table that knows only its own member.
func New(cfg Config) *Table {
	t := &Table{cfg: cfg, place: wire.PlaceOf(cfg.Self.ID), entries: map[peer.ID]*entry{}, told: map[peer.ID]int{}, gone: map[peer.ID]tombstone{}}
	t.sorted = []*entry{{member: cfg.Self, place: t.place, status: live}}
	return t
}

// Self gives this member.
func (t *Table) Self() wire.Member { return t.cfg.Self }

// SetSelf changes what this member says of itself; its identity stays.
func (t *Table) SetSelf(m wire.Member) {
	t.cfg.Self = m
	i := t.search(&t.place)
	t.sorted[i].member = m
}

// Generation changes whenever the answers of Closest may have changed.
func (t *Table) Generation() uint64 { return t.generation }

// Fresh says that this member joined others so recently that it may not have heard of everything it should know.
func (t *Table) Fresh(now time.Time) bool { return !t.joined.IsZero() && now.Sub(t.joined) < freshFor }

// Learn takes in what another member, the teller, says of a third one. It reports whether that was news. Of one that is
// live, nobody else's word counts until it does not answer.
func (t *Table) Learn(teller peer.ID, m wire.Member, now time.Time) bool {
	if m.ID == t.cfg.Self.ID {
		return false
	}
	if g, ok := t.gone[m.ID]; ok && now.Before(g.until) && m.Epoch <= g.epoch {
		return false
	}
	e, known := t.entries[m.ID]
	if known && (m.Epoch <= e.member.Epoch || e.status == stranger) {
		return false
	}
	if !known && len(t.entries) >= t.cfg.Max {
		return false
	}
	if known && e.status == live {
		news := e.hint == nil || m.Epoch > e.hint.Epoch
		e.hint = &m
		if e.due.IsZero() {
			e.due = now
		}
		return news
	}
	if !known || e.teller != "" && e.teller != teller {
		if t.told[teller] >= max(1, t.cfg.Max/4) {
			return false
		}
	}
	t.put(m, learned, now)
	t.credit(t.entries[m.ID], teller)
	return true
}

// credit notes who named a member; nobody did who speaks itself.
func (t *Table) credit(e *entry, teller peer.ID) {
	if e.teller != "" {
		if t.told[e.teller]--; t.told[e.teller] == 0 {
			delete(t.told, e.teller)
		}
	}
	if e.teller = teller; teller != "" {
		t.told[teller]++
	}
}

// Heard takes in what a member says of itself. It reports whether it is believed; a member that said goodbye is not
// until it is started anew.
func (t *Table) Heard(m wire.Member, now time.Time) bool {
	if m.ID == t.cfg.Self.ID {
		return false
	}
	if g, ok := t.gone[m.ID]; ok && g.goodbye && now.Before(g.until) && m.Epoch == g.epoch {
		return false // It went away while this was on its way.
	}
	e, known := t.entries[m.ID]
	restarted := known && e.status != stranger && e.member.Epoch != m.Epoch
	if known && !restarted && now.Before(e.held) {
		e.member, e.busy = m, false
		return true
	}
	if !known && len(t.entries) >= 2*t.cfg.Max {
		return false
	}
	t.put(m, live, now)
	return true
}

// Alive notes that a member answered.
func (t *Table) Alive(id peer.ID, now time.Time) {
	if e, ok := t.entries[id]; ok && (e.status == learned || e.status == suspect && !now.Before(e.held)) {
		due := e.due
		t.put(e.member, live, now)
		e.due = due // It may know nothing of us yet: hello is still to be said.
	}
}

// Connected notes a new connection. The side that opened it is the one to say hello.
func (t *Table) Connected(id peer.ID, outbound bool, now time.Time) {
	if id == t.cfg.Self.ID || !outbound {
		return
	}
	e, known := t.entries[id]
	switch {
	case known && e.status != live && !now.Before(e.held):
		e.due = now
	case !known:
		t.entries[id] = &entry{member: wire.Member{ID: id}, place: wire.PlaceOf(id), status: stranger, due: now}
	}
}

// Disconnected notes that the last connection to a member is gone. Most often it is dead; but where connections
// are trimmed it need not be, and then only neighbours are looked after.
func (t *Table) Disconnected(id peer.ID, trimmed bool, now time.Time) {
	e, ok := t.entries[id]
	switch {
	case !ok:
	case e.status == stranger:
		delete(t.entries, id)
	case e.status == live && trimmed && !t.neighbour(id):
		t.setStatus(e, learned)
	case e.hint != nil:
		t.follow(e, now)
	case e.candidate():
		t.setStatus(e, suspect)
		e.due = now
	}
}

// follow tries the life of a member that others named, because the one that is known does not answer.
func (t *Table) follow(e *entry, now time.Time) {
	t.put(*e.hint, learned, now)
	e.busy, e.due = false, now
}

// Failed notes that a member did not answer: it is a suspect at once. Contact says that this was the contact that
// Due asked for. Failed reports whether the member is gone for good.
func (t *Table) Failed(id peer.ID, contact bool, now time.Time) (gone bool) {
	e, ok := t.entries[id]
	switch {
	case !ok:
		return false
	case e.status == stranger:
		delete(t.entries, id)
		return true
	case e.status == suspect && !contact:
		return false
	}
	if e.hint != nil {
		t.follow(e, now)
		return false
	}
	t.setStatus(e, suspect)
	e.fails++
	e.busy = e.busy && !contact
	if e.fails >= maxFails {
		t.remove(e, tombstone{epoch: e.member.Epoch, until: now.Add(forgetAfter)})
		return true
	}
	e.due = now.Add(min(retryFirst<<(e.fails-1), retryMost))
	return false
}

// Report notes that a user of this package found a member dead. That holds for a while, whatever is heard of it.
func (t *Table) Report(id peer.ID, now time.Time) {
	if e, ok := t.entries[id]; ok && e.status != stranger && !now.Before(e.held) {
		t.setStatus(e, suspect)
		e.held = now.Add(reportFor)
		e.due = e.held
	}
}

// Doubt notes that another member found one dead that is live here. It is looked after, not taken for dead.
func (t *Table) Doubt(id peer.ID, now time.Time) {
	if e, ok := t.entries[id]; ok && e.status == live && e.due.IsZero() {
		e.due = now
	}
}

// Suspects names up to n members that are held for dead.
func (t *Table) Suspects(n int) []peer.ID {
	var ids []peer.ID
	if len(t.sorted) <= len(t.entries) { // Else all that are known are candidates.
		for id, e := range t.entries {
			if e.status == suspect && len(ids) < n {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// Goodbye notes that a member goes away. It reports whether it was this life of the member that ended.
func (t *Table) Goodbye(id peer.ID, epoch uint64, now time.Time) bool {
	e, ok := t.entries[id]
	if ok && e.status != stranger && e.member.Epoch != epoch {
		return false
	}
	if !ok {
		e = &entry{member: wire.Member{ID: id}, place: wire.PlaceOf(id)}
	}
	t.remove(e, tombstone{epoch: epoch, until: now.Add(forgetAfter), goodbye: true})
	return true
}

// Due gives up to n members that should be contacted now. They are not given again until Heard or Failed told how
// that went.
func (t *Table) Due(now time.Time, n int) []wire.Member {
	for _, e := range t.closest(&t.place, Neighbours+1, nil) {
		if e.status == learned && e.due.IsZero() {
			e.due = now
			if t.place.Compare(&e.place) > 0 {
				e.due = now.Add(courtesy)
			}
		}
	}
	var due []wire.Member
	for _, e := range t.entries {
		if len(due) == n {
			break
		}
		if !e.busy && !e.due.IsZero() && !now.Before(e.due) {
			e.busy = true
			due = append(due, e.member)
		}
	}
	maps.DeleteFunc(t.gone, func(_ peer.ID, g tombstone) bool { return !now.Before(g.until) })
	return due
}

// put makes an entry say that, creating it where needed.
func (t *Table) put(m wire.Member, s status, now time.Time) {
	e, ok := t.entries[m.ID]
	if !ok {
		e = &entry{place: wire.PlaceOf(m.ID)}
		t.entries[m.ID] = e
	}
	delete(t.gone, m.ID)
	e.member, e.fails, e.due, e.held, e.hint = m, 0, time.Time{}, time.Time{}, nil
	e.busy = e.busy && s != live
	if s == live {
		t.credit(e, "")
	}
	if s == live && t.live == 0 {
		t.joined = now
	}
	t.setStatus(e, s)
}

func (t *Table) remove(e *entry, g tombstone) {
	t.setStatus(e, stranger)
	t.credit(e, "")
	delete(t.entries, e.member.ID)
	if len(t.gone) < t.cfg.Max {
		t.gone[e.member.ID] = g
	}
}

// setStatus is the only place that changes a status, so that the order of candidates always fits.
func (t *Table) setStatus(e *entry, s status) {
	was := *e
	e.status = s
	if was.status == live && s != live {
		t.live--
	} else if was.status != live && s == live {
		t.live++
	}
	if was.candidate() == e.candidate() {
		return
	}
	t.generation++
	i := t.search(&e.place)
	if e.candidate() {
		t.sorted = slices.Insert(t.sorted, i, e)
	} else {
		t.sorted = slices.Delete(t.sorted, i, i+1)
	}
}

func (t *Table) search(p *wire.Place) int {
	return sort.Search(len(t.sorted), func(i int) bool { return t.sorted[i].place.Compare(p) >= 0 })
}

func (t *Table) neighbour(id peer.ID) bool {
	return slices.ContainsFunc(t.closest(&t.place, Neighbours+1, nil), func(e *entry) bool { return e.member.ID == id })
}

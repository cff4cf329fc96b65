package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// rig drives a Download at random, and keeps in maps what it may do: too simple to be wrong.
type rig struct {
	t       *testing.T
	r       *rand.Rand
	d       *Download
	now     time.Time
	linked  map[ID]bool
	told    map[ID]map[int]Hash
	out     map[ID]map[int]bool
	heard   map[ID]map[int]bool // What followers were told.
	follows map[ID]bool
	owned   map[ID]map[int]bool // What members said that they have, before their streams ended too.
	have    map[int]Hash
	fetch   []Lease
}

func (g *rig) do(actions []Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case Connect:
			id := a.Neighbour.Member
			if g.linked[id] || id == g.d.cfg.Self {
				g.t.Fatalf("%v again", a)
			}
			g.linked[id], g.told[id], g.out[id] = true, make(map[int]Hash), make(map[int]bool)
			if len(g.linked) > mostPeers {
				g.t.Fatalf("it listens to %d", len(g.linked))
			}
		case Disconnect:
			g.cut(a.Member)
		case Request:
			total := 0
			for _, pieces := range g.out {
				total += len(pieces)
			}
			_, here := g.have[a.Piece]
			hash, told := g.told[a.Member][a.Piece]
			if !told || a.Hash != hash || here || g.out[a.Member][a.Piece] || total >= mostRequests ||
				len(g.out[a.Member]) >= perPeer || !a.Deadline.After(g.now) {
				g.t.Fatalf("%v, with %d out there and %d in all", a, len(g.out[a.Member]), total)
			}
			g.out[a.Member][a.Piece] = true
		case Cancel:
			delete(g.out[a.Member], a.Piece)
		case Tell:
			for _, have := range a.Haves {
				if hash, here := g.have[have.Piece]; !g.follows[a.Member] || !here || have.Hash != hash {
					g.t.Fatalf("%v", a)
				}
				g.heard[a.Member][have.Piece] = true
			}
		case Fetch:
			g.fetch = append(g.fetch, a.Lease)
		case Release:
			g.fetch = without(g.fetch, []Lease{a.Lease})
		}
	}
}

func (g *rig) cut(id ID) {
	delete(g.linked, id)
	delete(g.told, id)
	delete(g.out, id)
}

func mark(piece int) Hash { return Hash{byte(piece), byte(piece >> 8), 1} }

// word is what a member says that a piece's hash is. One of four tells other hashes than the rest, and some tell that
// it is all zeros.
func word(id ID, piece int) Hash {
	switch len(id) + int(id[len(id)-1]) {
	case 50, 54:
		return Hash{byte(piece), byte(piece >> 8), 2}
	case 51:
		return Hash{}
	}
	return mark(piece)
}

// got notes a piece before the actions that follow from it are looked at.
func (g *rig) got(id ID, piece int) {
	g.have[piece] = g.told[id][piece]
	delete(g.out[id], piece)
}

func (g *rig) someone() ID { return ID(fmt.Sprint("m", g.r.IntN(30))) }

func (g *rig) step(layout Layout) {
	g.now = g.now.Add(time.Duration(g.r.IntN(60)) * time.Millisecond)
	id := g.someone()
	zone := fmt.Sprint("z", len(id)%2)
	switch g.r.IntN(16) {
	case 0:
		a := Assignment{Size: layout.Size}
		for range g.r.IntN(degree) {
			other := g.someone()
			a.Neighbours = append(a.Neighbours, Neighbour{other, fmt.Sprint("z", len(other)%2)})
		}
		for range g.r.IntN(3) {
			start := g.r.Int64N(layout.Size)
			a.Leases = append(a.Leases, Lease{Start: start, End: min(layout.Size, start+g.r.Int64N(8<<20))})
		}
		g.do(g.d.Assigned(g.now, a))
	case 1:
		g.do(g.d.Connected(g.now, id))
	case 2:
		if g.heard[id] == nil {
			g.heard[id] = make(map[int]bool)
		}
		g.follows[id] = true
		g.do(g.d.Followed(g.now, Neighbour{id, zone}))
	case 3:
		if g.r.IntN(4) == 0 {
			delete(g.follows, id)
			g.do(g.d.Unfollowed(g.now, id))
		}
	case 4:
		if g.linked[id] && g.r.IntN(4) == 0 {
			g.cut(id)
			g.do(g.d.Lost(g.now, id))
		}
	case 5, 6, 7:
		if g.linked[id] {
			piece := g.r.IntN(layout.Pieces())
			if _, again := g.told[id][piece]; !again {
				g.told[id][piece] = word(id, piece)
			}
			if g.owned[id] == nil {
				g.owned[id] = make(map[int]bool)
			}
			g.owned[id][piece] = true
			g.do(g.d.Heard(g.now, id, []Have{{piece, word(id, piece)}}))
		}
	case 8:
		if len(g.fetch) > 0 {
			first, last := layout.Covered(g.fetch[0].Start, g.fetch[0].End)
			if first < last {
				piece := first + g.r.IntN(last-first)
				if _, here := g.have[piece]; !here {
					g.have[piece] = mark(piece)
				}
				g.do(g.d.Fetched(g.now, Have{piece, mark(piece)}))
			}
		}
	case 9:
		g.do(g.d.Tick(g.now))
		if g.linked[id] && g.r.IntN(8) == 0 { // It has all, and told the hashes of some.
			if g.owned[id] == nil {
				g.owned[id] = make(map[int]bool)
			}
			for piece := range layout.Pieces() {
				g.owned[id][piece] = true
			}
			g.do(g.d.HeardAll(g.now, id))
		}
	default:
		for piece := range g.out[id] {
			switch g.r.IntN(12) {
			case 0:
				delete(g.out[id], piece)
				g.do(g.d.TimedOut(g.now, id, piece))
			case 1:
				delete(g.out[id], piece)
				g.do(g.d.Refused(g.now, id, piece, 20*time.Millisecond))
			case 2:
				if g.r.IntN(10) == 0 {
					g.do(g.d.Wrong(g.now, id, piece))
				}
			default:
				g.got(id, piece)
				g.do(g.d.Arrived(g.now, id, piece))
			}
			break
		}
	}
}

func TestDownloadAgainstModel(t *testing.T) {
	for seed := range uint64(40) {
		layout := NewLayout([]int64{5 << 20, 30 << 20, 100 << 20}[seed%3])
		r := rand.New(rand.NewPCG(seed, 5))
		g := &rig{t: t, r: r, now: time.Unix(0, 0), linked: make(map[ID]bool), told: make(map[ID]map[int]Hash), out: make(map[ID]map[int]bool),
			heard: make(map[ID]map[int]bool), follows: make(map[ID]bool), owned: make(map[ID]map[int]bool), have: make(map[int]Hash),
			d: NewDownload(DownloadConfig{Self: "self", Zone: "z0", Layout: layout, Rand: rand.New(rand.NewPCG(seed, 6))})}
		for range 4000 {
			g.step(layout)
			if g.d.Have().Count() != len(g.have) || g.d.Complete() != (len(g.have) == layout.Pieces()) {
				t.Fatalf("it says that it has %d, and has %d", g.d.Have().Count(), len(g.have))
			}
		}
		if len(g.have) == 0 {
			t.Fatal("nothing came")
		}
		// In the end everybody of its zone who listens knows all that it has, if they don't have it themselves.
		g.d.Reading(0)
		for range 400 {
			g.now = g.now.Add(100 * time.Millisecond)
			g.do(g.d.Tick(g.now))
		}
		for id := range g.follows {
			for piece := range g.have {
				if p := g.d.peers[id]; p != nil && !g.heard[id][piece] && !g.owned[id][piece] {
					t.Fatalf("seed %d: %s was not told of %d", seed, id, piece)
				}
			}
		}
	}
}

// TestRarestFirst checks what is asked for: what few have before what many have, and any of the equals as often.
func TestRarestFirst(t *testing.T) {
	counts := make(map[int]int)
	const runs = 20000
	layout := NewLayout(5 << 20)
	now := time.Unix(0, 0)
	r := rand.New(rand.NewPCG(1, 1))
	for range runs {
		d := NewDownload(DownloadConfig{Self: "self", Layout: layout, Rand: r})
		d.Assigned(now, Assignment{Neighbours: []Neighbour{{Member: "a"}, {Member: "b"}}})
		for _, p := range d.order {
			for piece := range 10 {
				if p.Member == "a" || piece >= 4 {
					d.hear(p, Have{Piece: piece})
				}
			}
			p.hears = true
		}
		d.Reading(layout.PieceSize * 7)
		counts[d.rarest(now)]++
	}
	// One of eight is for the reader, who waits for piece 7; the rest is for the four that only one has.
	for piece, want := range map[int]int{0: runs * 7 / 32, 1: runs * 7 / 32, 2: runs * 7 / 32, 3: runs * 7 / 32, 7: runs / 8, 5: 0} {
		if got := counts[piece]; got < want*93/100 || got > want*107/100 {
			t.Errorf("piece %d was chosen %d times of %d, want about %d", piece, got, runs, want)
		}
	}
}

// TestEndgame checks that the last pieces are asked for twice, and that the second request goes when one has come.
func TestEndgame(t *testing.T) {
	layout := NewLayout(OnePiece)
	d := NewDownload(DownloadConfig{Self: "self", Layout: layout, Rand: rand.New(rand.NewPCG(1, 1))})
	now := time.Unix(0, 0)
	d.Assigned(now, Assignment{Neighbours: []Neighbour{{Member: "a"}, {Member: "b"}}})
	for piece := range layout.Pieces() - 1 {
		d.Fetched(now, Have{Piece: piece})
	}
	last := []Have{{Piece: layout.Pieces() - 1, Hash: mark(9)}}
	one := d.Heard(now, "a", last)
	d.Heard(now, "b", last)
	two := d.Tick(now)
	if len(one) != 1 || len(two) != 1 || one[0].(Request).Member == two[0].(Request).Member {
		t.Fatalf("the last piece is asked for so: %v, then %v", one, two)
	}
	three := d.Arrived(now, "b", layout.Pieces()-1)
	if len(three) == 0 || three[0] != (Cancel{Member: "a", Piece: layout.Pieces() - 1}) || !d.Complete() {
		t.Fatalf("then %v", three)
	}
}

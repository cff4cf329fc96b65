package tracker

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	kioo "github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// edges are numbers at which arithmetic goes wrong.
var edges = []int64{
	0, 1, -1, -2, 2, 255, 256, 4<<20 - 1, 4 << 20, 100 << 20, 1 << 31, 1 << 32, swarm.MaxSize - 1, swarm.MaxSize, swarm.MaxSize + 1, 1 << 47,
	1 << 62, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1, 86400_000, 86400_001, int64(kioo.MaxAge / time.Millisecond),
}

// pick reads choices from a fuzzer's bytes; there is no end of zeros behind them.
type pick struct{ b []byte }

func (p *pick) byte() byte {
	if len(p.b) == 0 {
		return 0
	}
	c := p.b[0]
	p.b = p.b[1:]
	return c
}

func (p *pick) n(n int) int { return int(p.byte()) % n }

func (p *pick) yes() bool { return p.byte()%2 == 1 }

// number gives an edge, or something near one.
func (p *pick) number() int64 {
	n := edges[p.n(len(edges))]
	if p.byte()%4 == 1 {
		n += int64(int8(p.byte()))
	}
	return n
}

func (p *pick) text() string {
	texts := []string{"", "x", dgst, tagName, dgst + "@0123456789abcdef", dgst + "@", tagName + "@ff", "sha256:" + strings.Repeat("0", 64),
		"application/json", "text/html; charset=utf-8", "a/b\x00", strings.Repeat("é", 300), "a b/c:d", member("me").ID.String(), member("x").ID.String()}
	return texts[p.n(len(texts))]
}

func (p *pick) member() wireMember {
	w := encodeMember(member(string(rune('a' + p.n(4)))))
	switch p.n(8) {
	case 1:
		w.ID = p.text()
	case 2:
		w.Zone = strings.Repeat(p.text(), p.n(20))
	case 3:
		w.PeerAPI = slices.Repeat([]string{"10.0.0.1:28501"}, p.n(20))
	case 4:
		w.PeerAPI = []string{p.text() + fmt.Sprint(":", p.number())}
	}
	return w
}

func (p *pick) leases(most int) (out wireLeases) {
	for range p.n(most) {
		out = append(out, wireLease{Start: p.number(), End: p.number(), From: []string{"", p.text(), encodeMember(member("a")).ID}[p.n(3)]})
	}
	return out
}

func (p *pick) tag() *wireTag {
	if !p.yes() {
		return nil
	}
	w := &wireTag{MediaType: p.text(), Digest: []string{dgst, p.text()}[p.n(2)], Size: p.number(), AgeMS: p.number()}
	if p.yes() {
		w.Clock = &wireClock{Name: []string{"here", p.text()}[p.n(2)], MS: p.number()}
	}
	return w
}

// here is the clock of the fuzzed tracker.
var here = clock{name: "here", began: now.Add(-time.Hour), now: now}

func (p *pick) question() wireRequest {
	return wireRequest{
		Key: []string{dgst, tagName, p.text()}[p.n(3)], From: p.member(), Final: p.yes(), WaitMS: p.number(), RenewMS: p.number(),
		WithinMS: p.number(), Size: p.number(), Have: make([]byte, p.n(3), 3), Complete: p.yes(), Reading: p.leases(20),
		Partners: int(p.number()), Fetched: p.number(), Upstream: p.byte(), Sequential: p.yes(), Stalled: p.yes(), Waiting: p.yes(),
		Leaving: p.yes(), Tag: p.tag(), Avoid: slices.Repeat([]string{p.text()}, p.n(12)),
	}
}

// checkQuestion fails where an announce that was accepted is none that a member can mean.
func checkQuestion(t *testing.T, q *question) {
	a := &q.announce
	if a.Size < -1 || a.Size > swarm.MaxSize || a.Fetched < 0 || a.Fetched > swarm.MaxSize || q.wait < 0 || q.wait > maxWait ||
		q.renew < 0 || q.renew > maxAge || q.within < 0 || q.within > maxAge || a.Upstream > swarm.Never || len(a.Zone) > maxID {
		t.Fatalf("accepted: %+v", q)
	}
	for piece := range a.Have.All {
		if a.Size < 0 || piece >= swarm.NewLayout(a.Size).Pieces() {
			t.Fatalf("accepted: piece %d of %d bytes", piece, a.Size)
		}
	}
	for _, l := range a.Reading {
		checkLease(t, l, a.Size)
	}
	if v := q.value; v != nil && (v.Confirmed.After(here.now) || here.now.Sub(v.Confirmed) > kioo.MaxAge+time.Minute || v.Target.Size < 0) {
		t.Fatalf("accepted: %+v", v)
	}
}

func checkLease(t *testing.T, l swarm.Lease, size int64) {
	if size < 0 {
		size = swarm.MaxSize
	}
	if l.Start < 0 || l.Start > size || l.End > size || l.End < -1 || l.End >= 0 && l.End < l.Start {
		t.Fatalf("accepted: [%d, %d) of %d bytes", l.Start, l.End, size)
	}
}

// FuzzQuestion reads announces: such as are well-formed with values at the edges of their domains, and any bytes. What
// is accepted is what a member can mean, is the same once it was written again, and can be answered.
func FuzzQuestion(f *testing.F) {
	whole := announced(func(*wireRequest) {})
	f.Add(whole, false)
	f.Add(announced(func(w *wireRequest) { w.Key, w.Tag = tagName, encodeTag(value, now) }), false)
	for i := range len(edges) {
		f.Add([]byte{0, 0, 0, 0, byte(i), 0, byte(i), 0, 0, 0, byte(i)}, true)
		f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(i), 0, 2, 1, 1, byte(i), byte(i)}, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, build bool) {
		tracker := swarm.NewTracker(swarm.TrackerConfig{Rand: rand.New(rand.NewPCG(1, 1)), Blobs: 4, Members: 4})
		p := &pick{b}
		for step := 0; step == 0 || build && len(p.b) > 0 && step < 20; step++ {
			body := b
			if build {
				var err error
				if body, err = json.Marshal(p.question()); err != nil {
					t.Fatal(err)
				}
			}
			q, err := decodeQuestion(body, here)
			if err != nil {
				if !errors.Is(err, errMalformed) || !errors.Is(err, kioo.ErrLied) {
					t.Fatalf("%s: %v", body, err)
				}
				continue
			}
			checkQuestion(t, q)
			again, err := q.encode(here.now, &heardClock{wireClock: *here.encode(), at: here.now})
			if err != nil {
				t.Fatal(err)
			}
			r, err := decodeQuestion(again, here)
			if err != nil || r.key != q.key || r.announce.Size != q.announce.Size || !slices.Equal(r.announce.Reading, q.announce.Reading) ||
				r.value != nil && r.value.Confirmed.After(q.value.Confirmed) {
				t.Fatalf("%s became %s: %v", body, again, err)
			}
			// Whatever others said before, a member is told what it can accept.
			a := Answer{Assignment: tracker.Announce(now.Add(time.Duration(step)*time.Second), q.key, q.announce, nil)}
			for _, l := range a.Leases {
				checkLease(t, l, a.Size)
			}
			if q.announce.Size >= 0 && a.Size != q.announce.Size {
				t.Fatalf("%d bytes are announced, and %d answered", q.announce.Size, a.Size)
			}
		}
	})
}

// FuzzAnswer does the same with answers.
func FuzzAnswer(f *testing.F) {
	f.Add(answered(func(*wireResponse) {}), int64(100<<20), false)
	body, _ := (&referral{[]discovery.Member{member("x")}}).encode()
	f.Add(body, int64(-1), false)
	for i := range len(edges) {
		f.Add([]byte{byte(i), 0, 1, 0, 0, 0, 0, 0, 1, byte(i), 0, byte(i)}, int64(-1), true)
		f.Add([]byte{8, 0, 0, 0, 2, byte(i), 0, byte(i), 0, 0}, int64(1<<32), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64, build bool) {
		if build {
			p := &pick{b}
			w := wireResponse{Size: p.number(), NoSource: p.yes(), Open: p.yes(), Wait: p.yes(), Leases: p.leases(4), AgainMS: p.number(), Tag: p.tag()}
			for range p.n(4) {
				w.Members = append(w.Members, p.member())
			}
			for range p.n(3) {
				w.Holders = append(w.Holders, []string{p.text(), encodeMember(member("a")).ID}[p.n(2)])
				w.Neighbours = append(w.Neighbours, []string{p.text(), encodeMember(member("b")).ID}[p.n(2)])
			}
			for range p.n(3) {
				w.Closer = append(w.Closer, p.member())
			}
			b, _ = json.Marshal(w)
		}
		q := &question{key: dgst, from: member("me"), announce: swarm.Announce{Size: max(size, -1)}}
		a, _, err := decodeAnswer(b, now)
		if err == nil {
			err = a.check(q)
		}
		if err != nil {
			if !errors.Is(err, errMalformed) || !errors.Is(err, kioo.ErrLied) {
				t.Fatalf("%s: %v", b, err)
			}
			return
		}
		told := q.announce.Size
		if told < 0 {
			told = a.Size
		}
		for _, l := range a.Leases {
			checkLease(t, l, told)
			if _, ok := a.Members[l.From]; l.From != "" && !ok {
				t.Fatalf("%s is not introduced", l.From)
			}
		}
		for _, id := range a.Holders {
			if _, ok := a.Members[id]; !ok {
				t.Fatalf("%s is not introduced", id)
			}
		}
		if a.Again < 0 || a.Again > maxAgain || a.Size > swarm.MaxSize || a.Value != nil {
			t.Fatalf("accepted: %+v", a)
		}
	})
}

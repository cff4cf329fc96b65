package eviction

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// bring has an owner bring a blob of which nothing is held, and gives whether it is held then.
func bring(t *testing.T, p *Policy, owner content.Owner, name string, size int64, now time.Time) *Blob {
	t.Helper()
	a, _, ok := p.Begin(owner, size)
	if !ok {
		return nil
	}
	defer p.End(a)
	for left := size; left > 0; left -= min(left, 10) {
		if _, ok := p.Grow(a, min(left, 10)); !ok {
			return nil
		}
	}
	p.End(a)
	b := &Blob{Digest: digest.Digest(name), Owner: owner, Size: size, LastUse: now}
	p.Insert(b)
	return b
}

// TestSure has a victim hold something, and attackers under many names do what they like: bring blobs of all sizes, ask
// for them often, read them all the time. The victim keeps what he is sure of, but for the last blob that went.
func TestSure(t *testing.T) {
	const room, largest = 1000, 20
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 3))
		p, now := New(Bounds{Bytes: room, Blobs: 10_000}), time.Unix(0, 0)
		attackers := 1 + random.IntN(20)
		for i := range 5 + random.IntN(80) {
			b := bring(t, p, "victim", fmt.Sprint("victim ", i), 1+random.Int64N(largest), now)
			if b != nil && random.IntN(2) == 0 {
				p.Use(b, now.Add(time.Hour))
			}
		}
		before := p.accounts["victim"].total()
		var blobs []*Blob
		for i := range 2000 {
			now = now.Add(time.Minute)
			owner := content.Owner(fmt.Sprint("attacker ", random.IntN(attackers)))
			if b := bring(t, p, owner, fmt.Sprint(owner, i), random.Int64N(1+random.Int64N(room)), now); b != nil {
				blobs = append(blobs, b)
			}
			for range random.IntN(10) * min(1, len(blobs)) {
				if b := blobs[random.IntN(len(blobs))]; b.Held() {
					p.Use(b, now)
					if b.pins == 0 && random.IntN(4) == 0 {
						p.Pin(b)
					}
				}
			}
			for _, b := range blobs {
				for b.pins > 0 && random.IntN(4) == 0 {
					p.Unpin(b)
				}
			}
			least := min(before, room/2/int64(attackers+1)) - largest
			if a := p.accounts["victim"]; least > 0 && (a == nil || a.total() < least) {
				t.Fatalf("seed %d, step %d: of %d bytes the victim has %v left, beside %d attackers", seed, i, before, a, attackers)
			}
		}
	}
}

// TestOnce has what is asked for once flood a cache: what is asked for often stays, whoever brought which, and what
// another brought once stays too, up to an equal share.
func TestOnce(t *testing.T) {
	for _, other := range []content.Owner{"a", "b"} {
		p, now := New(Bounds{Bytes: 1000, Blobs: 1000}), time.Unix(0, 0)
		var often, once []*Blob
		for i := range 40 {
			often = append(often, bring(t, p, "a", fmt.Sprint("often ", i), 20, now))
		}
		for _, b := range often {
			p.Use(b, now.Add(time.Hour))
		}
		for i := range 30 { // The last of these push the often used ones to where they belong.
			once = append(once, bring(t, p, "a", fmt.Sprint("once ", i), 10, now))
		}
		for i := range 5000 {
			if bring(t, p, other, fmt.Sprint("flood ", i), 10, now) == nil {
				t.Fatalf("blob %d of the flood is refused", i)
			}
		}
		for _, b := range often {
			if !b.Held() {
				t.Fatalf("%s is gone, for what %q brought once", b.Digest, other)
			}
		}
		stayed := 0
		for _, b := range once {
			if b.Held() {
				stayed++
			}
		}
		if want := map[content.Owner]int{"a": 0, "b": 5}[other]; stayed < want {
			t.Errorf("of the last ones of a, %d stayed beside the flood of %q, want %d", stayed, other, want)
		}
	}
}

// TestAnnounced has somebody announce as much as he may, and send a byte of each: others lose no more than those take.
func TestAnnounced(t *testing.T) {
	p, now := New(Bounds{Bytes: 1000, Blobs: 1000}), time.Unix(0, 0)
	for i := range 100 {
		if bring(t, p, "victim", fmt.Sprint(i), 10, now) == nil {
			t.Fatal("refused")
		}
	}
	var begun []*Arrival
	for {
		a, victims, ok := p.Begin("attacker", 25)
		if len(victims) > 0 {
			t.Error("something is evicted for what is only announced")
		}
		if !ok {
			break
		}
		begun = append(begun, a)
		if _, ok := p.Grow(a, 1); !ok {
			t.Error("no room for a byte")
		}
	}
	if len(begun) == 0 || p.accounts["victim"].total() < 1000-int64(len(begun))-10 {
		t.Errorf("after %d bytes that came, the victim has %d left of 1000", len(begun), p.accounts["victim"].total())
	}
	if _, _, ok := p.Begin("victim", 600); !ok {
		t.Error("what is only announced keeps another out")
	}
}

// TestMost gives owners as much as they ask for, one after the other: the last one gets something too.
func TestMost(t *testing.T) {
	for _, test := range []struct {
		limit, others, want int64
	}{
		{1000, 0, 750}, {1000, 750, 188}, {1000, 1000, 0}, {1000, 2000, 0}, {1, 0, 1}, {0, 0, 0}, {1 << 62, 0, 3 << 60},
	} {
		if got := most(test.limit, test.others); got != test.want {
			t.Errorf("most(%d, %d) gave %d, want %d", test.limit, test.others, got, test.want)
		}
	}
	b := NewBudget(1000)
	var claims []*Claim
	for i := range 8 {
		owner := content.Owner(fmt.Sprint(i))
		c := b.Claim(owner, most(1000, b.used))
		if c == nil || !c.Take(c.size) || c.Take(1) || b.Claim(owner, 1) != nil {
			t.Fatalf("owner %d, with %d used: %+v", i, b.used, c)
		}
		claims = append(claims, c)
	}
	if b.used > 1000 || b.Claim("late", 2000) != nil || b.Claim("late", 1<<62) != nil {
		t.Errorf("%d of 1000 are used", b.used)
	}
	for _, c := range claims {
		c.End()
	}
	if b.used != 0 || len(b.all) != 0 {
		t.Errorf("%d bytes of %d owners are left", b.used, len(b.all))
	}
	// Words keep nobody out, and take nothing.
	if b.Claim("loud", 750) == nil || b.Claim("loud", 1) != nil || b.Claim("quiet", 750) == nil || b.used != 0 {
		t.Error("what is announced is counted for others, or not for who announces")
	}
}

func TestHugeSizes(t *testing.T) {
	p := New(Bounds{Bytes: 1 << 62, Blobs: 10})
	for i, size := range []int64{3 << 60, 1 << 62, 1<<63 - 1, 1} {
		if a, _, ok := p.Begin("", size); ok != (i == 0) {
			t.Errorf("Begin %d gave %v", size, ok)
		} else if ok {
			if _, ok := p.Grow(a, size); !ok {
				t.Error("no room")
			}
		}
	}
}

func TestTogether(t *testing.T) {
	now := time.Unix(1000, 0)
	p := New(Bounds{Bytes: 100, Blobs: 10})
	b := bring(t, p, "", "b", 10, now)
	for i, test := range []struct {
		at   time.Duration
		want bool
	}{
		{0, false}, {Together - 1, false}, {Together, true}, {2*Together - 1, false}, {2 * Together, true}, {-time.Hour, false},
		{-time.Hour + Together, true}, {time.Hour, false},
	} {
		if got := p.Use(b, now.Add(test.at)); got != test.want {
			t.Errorf("use %d at %v counts: %v, want %v", i, test.at, got, test.want)
		}
	}
	if b.Uses != mostUses {
		t.Errorf("%d uses", b.Uses)
	}
}

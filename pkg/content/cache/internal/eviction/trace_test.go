package eviction

import (
	"container/heap"
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// request is one request for a blob.
type request struct {
	digest digest.Digest
	size   int64
	owner  content.Owner
	at     time.Time
}

// hits are which part of a trace's requests and bytes a cache had.
type hits struct{ requests, bytes float64 }

func (h hits) String() string { return fmt.Sprintf("%5.1f%% %5.1f%%", 100*h.requests, 100*h.bytes) }

// replay counts the hits of a trace, but not those of an attacker: they are nobody's concern.
func replay(trace []request, hit func(i int, r request) bool) hits {
	var h hits
	var n, all float64
	for i, r := range trace {
		is := hit(i, r)
		if strings.HasPrefix(string(r.digest), attacker) {
			continue
		}
		n++
		all += float64(r.size)
		if is {
			h.requests++
			h.bytes += float64(r.size)
		}
	}
	return hits{h.requests / n, h.bytes / all}
}

// attacker is the owner of what is asked for to harm the others.
const attacker = "evil.example"

// replayPolicy replays a trace against a Policy, with blobs that arrive in steps.
func replayPolicy(trace []request, capacity int64) hits {
	p := New(Bounds{Bytes: capacity, Blobs: 100_000})
	held := map[digest.Digest]*Blob{}
	drop := func(victims []*Blob) {
		for _, b := range victims {
			delete(held, b.Digest)
		}
	}
	return replay(trace, func(_ int, r request) bool {
		if b := held[r.digest]; b != nil {
			p.Use(b, r.at)
			return true
		}
		a, victims, ok := p.Begin(r.owner, r.size)
		drop(victims)
		if !ok {
			return false
		}
		defer p.End(a)
		for left := r.size; left > 0 && ok; left -= min(left, 1<<20) {
			victims, ok = p.Grow(a, min(left, 1<<20))
			drop(victims)
		}
		if ok {
			p.End(a)
			b := &Blob{Digest: r.digest, Owner: r.owner, Size: r.size, LastUse: r.at}
			p.Insert(b)
			held[r.digest] = b
		}
		return false
	})
}

// replayLRU replays a trace against what the cache was before.
func replayLRU(trace []request, capacity int64) hits {
	recent, held, bytes := list.New(), map[digest.Digest]*list.Element{}, int64(0)
	return replay(trace, func(_ int, r request) bool {
		if place := held[r.digest]; place != nil {
			recent.MoveToFront(place)
			return true
		}
		for bytes += r.size; bytes > capacity; {
			old := recent.Remove(recent.Back()).(request)
			delete(held, old.digest)
			bytes -= old.size
		}
		held[r.digest] = recent.PushFront(r)
		return false
	})
}

// future is a heap of blobs, the one that is wanted the latest on top.
type future struct {
	all  []request
	next []int
}

func (f *future) Len() int           { return len(f.all) }
func (f *future) Less(i, j int) bool { return f.next[i] > f.next[j] }
func (f *future) Push(any)           {}
func (f *future) Swap(i, j int) {
	f.all[i], f.all[j] = f.all[j], f.all[i]
	f.next[i], f.next[j] = f.next[j], f.next[i]
}

func (f *future) Pop() any {
	last := len(f.all) - 1
	r := f.all[last]
	f.all, f.next = f.all[:last], f.next[:last]
	return r
}

// replayBelady replays a trace against one who knows what comes, and lets go of what is wanted the latest. That is the
// optimum for blobs of one size, and close to it for others.
func replayBelady(trace []request, capacity int64) hits {
	next, last := make([]int, len(trace)), map[digest.Digest]int{}
	for i := len(trace) - 1; i >= 0; i-- {
		next[i] = math.MaxInt
		if later, ok := last[trace[i].digest]; ok {
			next[i] = later
		}
		last[trace[i].digest] = i
	}
	held, bytes, f := map[digest.Digest]int{}, int64(0), &future{} // Of held, when it is wanted next.
	return replay(trace, func(i int, r request) bool {
		_, hit := held[r.digest]
		if !hit {
			bytes += r.size
		}
		held[r.digest] = next[i]
		f.all, f.next = append(f.all, r), append(f.next, next[i])
		heap.Fix(f, len(f.all)-1)
		for bytes > capacity {
			at := f.next[0]
			old := heap.Pop(f).(request)
			if held[old.digest] == at { // Else it was used since, and is in the heap once more.
				delete(held, old.digest)
				bytes -= old.size
			}
		}
		return hit
	})
}

// pulls makes traces of what a node is asked for.
type pulls struct {
	random *rand.Rand
	now    time.Time
	trace  []request
	sizes  map[string]int64
}

func newPulls(seed uint64) *pulls {
	return &pulls{random: rand.New(rand.NewPCG(seed, 2)), now: time.Unix(0, 0), sizes: map[string]int64{}}
}

// ask asks for a blob of which the name says all. Sizes are log-normal about a median, as those of layers are.
func (p *pulls) ask(owner content.Owner, name string, median float64) {
	size, ok := p.sizes[name]
	if !ok {
		size = int64(median*math.Exp(p.random.NormFloat64()*1.5)) + 1
		size = min(size, 3<<30)
		p.sizes[name] = size
	}
	p.trace = append(p.trace, request{digest.Digest(name), size, owner, p.now})
}

// pull asks for an image as a client does: manifest, configuration, the layers of its base, and its own.
func (p *pulls) pull(owner content.Owner, image, version int, bases int) {
	p.now = p.now.Add(time.Duration(p.random.ExpFloat64() * float64(10*time.Minute)))
	name := string(owner) + "/" + strconv.Itoa(image)
	tag := name + ":" + strconv.Itoa(version)
	p.ask(owner, tag+" manifest", 2<<10)
	p.ask(owner, tag+" config", 8<<10)
	base := image % bases
	for layer := range 1 + base%3 {
		p.ask(owner, fmt.Sprint(owner, " base ", base, " layer ", layer), 20<<20)
	}
	for layer := range 1 + image%5 {
		p.ask(owner, fmt.Sprint(name, " layer ", layer), 5<<20) // Stays from version to version.
	}
	p.ask(owner, tag+" layer", 8<<20)
}

// scenario is a trace and what it is about.
type scenario struct {
	name string
	fill func(p *pulls)
}

const pullsPerTrace = 6000

// popular gives images of a catalogue, some much more often than others.
func (p *pulls) popular(images int) func() int {
	z := rand.NewZipf(p.random, 1.2, 8, uint64(images-1))
	return func() int { return int(z.Uint64()) }
}

// scenarios are what a node may be asked for. Bases are shared by the images of a registry, but not by those of a scan.
var scenarios = []scenario{
	{"images, some popular", func(p *pulls) {
		image := p.popular(3000)
		for range pullsPerTrace {
			p.pull("docker.io", image(), 0, 40)
		}
	}},
	{"the same, and scans", func(p *pulls) { // Somebody goes through all of a registry now and then.
		image := p.popular(3000)
		for i := range pullsPerTrace {
			p.pull("docker.io", image(), 0, 40)
			if i%1500 == 1499 {
				for n := range 600 {
					p.pull("docker.io", 10_000+i+n, 0, 1_000_000)
				}
			}
		}
	}},
	{"CI's ever new tags", func(p *pulls) { // Each is pulled once or twice, and never again.
		image := p.popular(1000)
		for i := range pullsPerTrace / 2 {
			p.pull("docker.io", image(), 0, 40)
			for range 1 + i%4/3 {
				p.pull("docker.io", 5000+i%50, i/50, 40)
			}
		}
	}},
	{"moving taste", func(p *pulls) { // What is popular changes each week.
		image := p.popular(1500)
		for i := range pullsPerTrace {
			p.pull("docker.io", image()+i/1000*300, 0, 40)
		}
	}},
	{"four registries", func(p *pulls) { p.four(2000, 100, 60, 20) }},
	{"four of equal size", func(p *pulls) { p.four(2000, 2000, 2000, 2000) }},
	{"another's scan", func(p *pulls) { // What the other registry has is never wanted again.
		image := p.popular(3000)
		for i := range pullsPerTrace {
			p.pull("docker.io", image(), 0, 40)
			p.pull(attacker, i, 0, 1_000_000)
		}
	}},
	{"another's flood", func(p *pulls) { // It is asked for again and again, by whoever wants to harm.
		image := p.popular(3000)
		for i := range pullsPerTrace {
			p.pull("docker.io", image(), 0, 40)
			for range 3 {
				p.pull(attacker, i%20, 0, 1_000_000)
			}
			p.pull(attacker, 100+i, 0, 1_000_000)
		}
	}},
	{"another's favourites", func(p *pulls) { // As much as the cache holds, each of it asked for more than anything else.
		image := p.popular(3000)
		for range pullsPerTrace / 4 {
			p.pull("docker.io", image(), 0, 40)
			for n := range 20 {
				p.pull(attacker, n*10+p.random.IntN(10), 0, 1_000_000)
			}
		}
	}},
}

// four has one registry asked for seven pulls in ten, and three others for one each.
func (p *pulls) four(catalogues ...int) {
	var image []func() int
	for _, n := range catalogues {
		image = append(image, p.popular(n))
	}
	owners := [...]content.Owner{"docker.io", "quay.io", "ghcr.io", "k8s.io"}
	for range pullsPerTrace {
		i := max(0, p.random.IntN(10)-6)
		p.pull(owners[i], image[i](), 0, 1+catalogues[i]/50)
	}
}

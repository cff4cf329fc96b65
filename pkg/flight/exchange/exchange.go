// Package exchange guides flights together with the other members that get the same blob.
//
// It owns what happens between members while a blob arrives: the announces to its coordinator, the leases that are
// read for everybody, the streams on which neighbours tell each other what they have, and the pieces that are asked of
// them. What to ask of whom is decided in package swarm; the spool and its readers belong to package flight, and what
// other members are served to the peer API.
package exchange

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/coordinator"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Announcer knows the coordinators.
type Announcer interface {
	// Announce tells a blob's coordinator what this member wants or has, and gives its answer.
	Announce(ctx context.Context, key string, a swarm.Announce) (coordinator.Answer, error)
	// Member gives what was last heard of a member that an answer named.
	Member(id swarm.ID) (discovery.Member, bool)
}

// Config is what an exchange needs.
type Config struct {
	Self swarm.ID
	Zone string
	// Announcer reaches the coordinators.
	Announcer Announcer
	// Peers reaches the other members.
	Peers *peer.Client
	// Held tells whether this member holds the whole of a blob, and gives it to a member that says that of its client.
	Held func(ctx context.Context, ref reference.Reference, claim access.Claim) bool
	// Earlier gives the layers of a blob's image that are unpacked before it, and so are to come first. Nil knows none.
	Earlier func(ref reference.Reference) []digest.Digest
	// Blame is told of members that sent wrong bytes. Nil tells nobody.
	Blame func(member discovery.Member, ref reference.Reference, err error)
	// MaxFollowers bounds how many members hear from one flight what it has. Each costs a connection and 80 KiB at
	// most. Neighbours are up to 16, and both sides choose: 64 by default.
	MaxFollowers int
	// Patience bounds what happens when nothing arrives.
	Patience Patience

	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Exchange guides the flights of this node. It is safe for concurrent use.
type Exchange struct {
	cfg     Config
	ctx     context.Context // Ends with Close.
	cancel  context.CancelFunc
	last    sync.WaitGroup // Announces of what has ended.
	buffers sync.Pool      // Of requests, each of which lives for a fraction of a second.
	doubted *lru.Cache[digest.Digest, time.Time]

	mu      sync.Mutex
	parties map[string]*party // By what the coordinator knows the blob as.
	guided  map[string]bool   // Flights that the coordinator knows of, until they have landed.
	closed  bool

	requests *prometheus.CounterVec
	leases   *prometheus.CounterVec
}

const (
	// doubtFor is how long a blob of which the swarm had wrong bytes is got without it.
	doubtFor = time.Hour
	// maxDoubted bounds how many such blobs are remembered.
	maxDoubted = 1024
	// copyBuffer is how much of a piece is read, hashed and written at once: a whole one of the smallest size, for each
	// write to a file costs about as much as 64 KiB more in it.
	copyBuffer = 256 << 10
)

// New makes an exchange.
func New(cfg Config) (*Exchange, error) {
	if cfg.MaxFollowers == 0 {
		cfg.MaxFollowers = 64
	}
	cfg.Patience = cfg.Patience.orDefault()
	doubted, err := lru.New[digest.Digest, time.Time](maxDoubted)
	if err != nil {
		return nil, err
	}
	x := &Exchange{cfg: cfg, parties: map[string]*party{}, guided: map[string]bool{}, doubted: doubted}
	x.buffers.New = func() any { return new([copyBuffer]byte) }
	x.ctx, x.cancel = context.WithCancel(context.Background())
	factory := promauto.With(cfg.Registerer)
	x.requests = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_swarm_requests_total", Help: "Pieces asked of neighbours, by result: arrived, refused, late, lost, wrong, another (of a blob of another size) or cancelled.",
	}, []string{"result"})
	x.leases = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_swarm_leases_total", Help: "Leases that were read, by where from (upstream, member) and result: done, released or failed.",
	}, []string{"from", "result"})
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kioo_swarm_followers", Help: "Members that hear from this one what it has of blobs that are on their way.",
	}, func() float64 { return float64(x.followers()) })
	return x, nil
}

// errDoubted says that a blob is not got from the swarm for now.
var errDoubted = errors.New("the swarm had wrong bytes of it a while ago")

// Guide implements flight.Swarm.
func (x *Exchange) Guide(ctx context.Context, task *flight.Guided) error {
	src, ref, ok := named(task.Sources())
	if !ok {
		return errors.New("no source says what it is asked for")
	}
	for moves := 0; ; moves++ {
		if size := believed(task); size >= 0 && size < swarm.OnePiece {
			return errors.New("it is one piece, for which its sources agree with the other members")
		}
		err := x.guide(ctx, task, src, ref)
		if !errors.Is(err, errMoved) || moves == maxMoves {
			return err
		}
	}
}

// maxMoves bounds how often a flight goes to the swarm of another size.
const maxMoves = 4

// believed gives what is known of a blob's size, or else what was heard; negative if nothing.
func believed(task *flight.Guided) int64 {
	size, hint := task.Size()
	if size >= 0 {
		return size
	}
	if size, ok := hint.Bytes(); ok && size <= swarm.MaxSize {
		return size
	}
	return -1
}

// guide guides a flight for as long as it is believed to have one size.
func (x *Exchange) guide(ctx context.Context, task *flight.Guided, src flight.Source, ref reference.Reference) error {
	dgst := task.Digest()
	if at, ok := x.doubted.Get(dgst); ok && time.Since(at) < doubtFor {
		return errDoubted
	}
	p := newParty(x, task, src, ref)
	if !x.enter(p) {
		return errors.New("exchange is closed")
	}
	defer x.exit(p)
	return p.run(ctx)
}

// named gives the source in whose name a swarm asks, and what that is asked for, if a swarm may help it.
func named(sources []flight.Source) (flight.Source, reference.Reference, bool) {
	for _, src := range sources {
		if n, ok := src.(interface {
			Reference() (reference.Reference, bool)
		}); ok {
			ref, ok := n.Reference()
			return src, ref, ok
		}
	}
	return nil, reference.Reference{}, false
}

// claimed gives what the sources say to members of whom the blob is for.
func claimed(sources []flight.Source) access.Claim {
	for _, src := range sources {
		if c, ok := src.(interface {
			Claim() access.Claim
		}); ok {
			return c.Claim()
		}
	}
	return access.ClaimOpen
}

func (x *Exchange) enter(p *party) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	x.parties[p.key], x.guided[p.key] = p, true
	return true
}

func (x *Exchange) exit(p *party) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parties[p.key] == p {
		delete(x.parties, p.key)
	}
}

func (x *Exchange) party(key string) *party {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.parties[key]
}

// partiesOf gives the flights of a digest, of which each scope may have one.
func (x *Exchange) partiesOf(dgst string) (all []*party) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, p := range x.parties {
		if strings.HasPrefix(key, dgst) {
			all = append(all, p)
		}
	}
	return all
}

func (x *Exchange) followers() (n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.parties {
		n += p.following.Load()
	}
	return n
}

// lastWord is how long the coordinator may take to hear that a flight has ended.
const lastWord = 3 * time.Second

// Landed implements flight.Swarm: it tells the coordinator whether the blob is held here now.
func (x *Exchange) Landed(scope string, dgst digest.Digest, size int64, held bool) {
	key := coordinator.Apart(dgst.String(), scope)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || !x.guided[key] {
		return
	}
	delete(x.guided, key)
	x.last.Go(func() {
		ctx, cancel := context.WithTimeout(x.ctx, lastWord)
		defer cancel()
		a := swarm.Announce{Member: x.cfg.Self, Zone: x.cfg.Zone, Size: size, Complete: held, Leaving: !held}
		if _, err := x.cfg.Announcer.Announce(ctx, key, a); err != nil {
			x.cfg.Log.V(1).Info("coordinator does not hear of the end", "digest", dgst, "reason", err.Error())
		}
	})
}

// Close ends the streams of other members and returns when the last announce has ended. Flights that are guided go on
// by themselves.
func (x *Exchange) Close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.cancel()
	x.last.Wait()
}

// random makes a source of randomness of its own for each flight.
func random() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

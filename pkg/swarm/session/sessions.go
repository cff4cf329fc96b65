// Package session guides flights together with the other members that get the same blob.
//
// It owns what happens between members while a blob arrives: the announces to its tracker, the leases that are
// read for everybody, the streams on which neighbours tell each other what they have, and the pieces that are asked of
// them. What to ask of whom is decided in package swarm; the spool and its readers belong to package flight, and what
// other members are served to the peer API.
package session

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
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Announcer knows the trackers.
type Announcer interface {
	// Announce tells a blob's tracker what this member wants or has, and gives its answer.
	Announce(ctx context.Context, key string, a swarm.Announce) (tracker.Answer, error)
	// Member gives what was last heard of a member that an answer named.
	Member(id swarm.ID) (discovery.Member, bool)
}

// Config is what sessions need.
type Config struct {
	Self swarm.ID
	Zone string
	// Announcer reaches the trackers.
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

// Sessions guides the flights of this node. It is safe for concurrent use.
type Sessions struct {
	cfg     Config
	ctx     context.Context // Ends with Close.
	cancel  context.CancelFunc
	last    sync.WaitGroup // Announces of what has ended.
	buffers sync.Pool      // Of requests, each of which lives for a fraction of a second.
	doubted *lru.Cache[digest.Digest, time.Time]

	mu       sync.Mutex
	sessions map[string]*session // By what the tracker knows the blob as.
	guided   map[string]bool     // Flights that the tracker knows of, until they have landed.
	closed   bool

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

// New makes the sessions of a node, of which there are none yet.
func New(cfg Config) (*Sessions, error) {
	if cfg.MaxFollowers == 0 {
		cfg.MaxFollowers = 64
	}
	cfg.Patience = cfg.Patience.orDefault()
	doubted, err := lru.New[digest.Digest, time.Time](maxDoubted)
	if err != nil {
		return nil, err
	}
	x := &Sessions{cfg: cfg, sessions: map[string]*session{}, guided: map[string]bool{}, doubted: doubted}
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
func (x *Sessions) Guide(ctx context.Context, task *flight.Guided) error {
	src := members(task.Sources())
	if src == nil {
		return errors.New("no source is other members")
	}
	ref, ok := src.Reference()
	if !ok {
		return errors.New("no swarm may help its source")
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
func (x *Sessions) guide(ctx context.Context, task *flight.Guided, src Members, ref reference.Reference) error {
	dgst := task.Digest()
	if at, ok := x.doubted.Get(dgst); ok && time.Since(at) < doubtFor {
		return errDoubted
	}
	p := newSession(x, task, src, ref)
	if !x.enter(p) {
		return errors.New("sessions are closed")
	}
	defer x.exit(p)
	return p.run(ctx)
}

// Members is a source of a flight that is the other members, in whose name a session asks them.
type Members interface {
	flight.Source
	// Reference is what they are asked for. It is ok if a swarm may help.
	Reference() (ref reference.Reference, ok bool)
	// Claim is what they are told of the clients that the blob is for.
	Claim() access.Claim
	// From gives the same members, of which one is asked before all others.
	From(first discovery.Member) flight.Source
}

// members gives the first source that is the other members, nil if there is none.
func members(sources []flight.Source) Members {
	for _, src := range sources {
		if m, ok := src.(Members); ok {
			return m
		}
	}
	return nil
}

func (x *Sessions) enter(p *session) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	x.sessions[p.key], x.guided[p.key] = p, true
	return true
}

func (x *Sessions) exit(p *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sessions[p.key] == p {
		delete(x.sessions, p.key)
	}
}

func (x *Sessions) session(key string) *session {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sessions[key]
}

// sessionsOf gives the flights of a digest, of which each scope may have one.
func (x *Sessions) sessionsOf(dgst string) (all []*session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, p := range x.sessions {
		if strings.HasPrefix(key, dgst) {
			all = append(all, p)
		}
	}
	return all
}

func (x *Sessions) followers() (n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.sessions {
		n += p.following.Load()
	}
	return n
}

// lastWord is how long the tracker may take to hear that a flight has ended.
const lastWord = 3 * time.Second

// Landed implements flight.Swarm: it tells the tracker whether the blob is held here now.
func (x *Sessions) Landed(scope string, dgst digest.Digest, size int64, held bool) {
	key := tracker.Apart(dgst.String(), scope)
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
			x.cfg.Log.V(1).Info("tracker does not hear of the end", "digest", dgst, "reason", err.Error())
		}
	})
}

// Close ends the streams of other members and returns when the last announce has ended. Flights that are guided go on
// by themselves.
func (x *Sessions) Close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.cancel()
	x.last.Wait()
}

// random makes a source of randomness of its own for each flight.
func random() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

package tracker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/discovery"
	kioo "github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// tick is how often the service looks for leases that lapsed and members that died.
	tick = 200 * time.Millisecond
	// idleAfter is after how long without an announce nothing can lapse any more.
	idleAfter = time.Minute
	// maxRemembered bounds the members whose addresses are known, at some 300 bytes each.
	maxRemembered = 1 << 13
	// maxKeys bounds each memory of what was announced: what tags mean, what upstream refused, what was searched for.
	maxKeys = 1 << 12
	// maxPromises bounds the leases whose holders said when they would announce again. Others lapse by the tracker's
	// own, longer time.
	maxPromises = 1 << 14
	// refusedFor is how long after a final no from upstream nobody else is sent there for something small. It is about
	// a moment: whoever asks later gets a try for all.
	refusedFor = 2 * time.Second
	// closerNamed is how many closer members a redirect names.
	closerNamed = 3
)

// Directory knows the members and what they hold.
type Directory interface {
	Self() discovery.Member
	// Closer gives live members closer to a key than this one, the closest first.
	Closer(key discovery.Key, n int, exclude []peer.ID) []discovery.Member
	// Holders gives who is known here to hold a key. With search, others are asked if nobody is.
	Holders(ctx context.Context, key discovery.Key, search bool) ([]discovery.Member, error)
	// Dead gives those of the members that are held for dead.
	Dead(ids []peer.ID) []peer.ID
}

// ServiceConfig is what a service needs.
type ServiceConfig struct {
	Directory Directory
	// Waiting bounds how many announces wait at the same time for something to do, at some 40 KB each with their
	// connections; others are told to ask again. 1024 by default.
	Waiting int
	// Violations notes what members say that they can't mean. Nil notes nothing.
	Violations *kioo.Violations

	Now        func() time.Time
	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Service is the tracker of what lies closest to this member. It is safe for concurrent use.
type Service struct {
	cfg     ServiceConfig
	metrics *serviceMetrics
	clock   clock

	mu       sync.Mutex // For what follows. It is never held over I/O.
	tracker  *swarm.Tracker
	members  *lru.Cache[swarm.ID, discovery.Member]
	tags     *lru.Cache[string, *tag]
	watches  map[string]*watch // By the tracker's name of what is waited for.
	waiting  int
	last     time.Time // When something was announced.
	promises map[promise]time.Time
	refused  *lru.Cache[string, time.Time] // What is one piece, and somebody got a final no for it.
	searched *lru.Cache[string, *search]   // What others said last of holders.
}

// promise is a member with a lease, which is to announce again before a certain time.
type promise struct {
	blob   string
	member swarm.ID
}

// watch is what those wait on who wait for the same. Its channel is closed once, by who takes it off the map.
type watch struct {
	changed chan struct{}
	version uint64
}

// NewService makes a service that knows of nothing yet.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Waiting == 0 {
		cfg.Waiting = 1024
	}
	s := &Service{cfg: cfg, clock: newClock(cfg.Now()), watches: map[string]*watch{}, promises: map[promise]time.Time{}}
	s.tracker = swarm.NewTracker(swarm.TrackerConfig{Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))})
	var errs [4]error
	s.members, errs[0] = lru.New[swarm.ID, discovery.Member](maxRemembered)
	s.tags, errs[1] = lru.New[string, *tag](maxKeys)
	s.refused, errs[2] = lru.New[string, time.Time](maxKeys)
	s.searched, errs[3] = lru.New[string, *search](maxKeys)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("make memories: %w", err)
	}
	s.metrics = newServiceMetrics(cfg.Registerer, s)
	return s, nil
}

// Run notices what becomes true by time alone, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.tick()
		}
	}
}

// tick drops members that died, and leases of those that did not keep their word.
func (s *Service) tick() {
	now := s.cfg.Now()
	s.mu.Lock()
	var ids []peer.ID
	if now.Sub(s.last) < idleAfter {
		for _, m := range s.members.Values() {
			ids = append(ids, m.ID)
		}
	}
	s.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	dead := s.cfg.Directory.Dead(ids)

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range dead {
		s.tracker.Gone(now, ID(id))
		s.members.Remove(ID(id))
	}
	for p, until := range s.promises {
		if now.After(until) {
			delete(s.promises, p)
			s.tracker.Announce(now, p.blob, swarm.Announce{Member: p.member, Size: -1, Leaving: true}, nil)
			s.cfg.Log.V(1).Info("lease lapsed, as its holder is silent", "blob", p.blob, "member", p.member)
		}
	}
	s.tracker.Tick(now)
	for blob := range s.watches {
		s.wake(blob, false)
	}
}

// wake makes those look again who wait for something, if it changed. The caller holds the lock.
func (s *Service) wake(blob string, changed bool) {
	if w, ok := s.watches[blob]; ok && (changed || w.version != s.tracker.Changed(blob)) {
		close(w.changed)
		delete(s.watches, blob)
	}
}

// referral says that other members are closer to what was announced.
type referral struct{ closer []discovery.Member }

func (r *referral) Error() string { return fmt.Sprintf("%d members are closer", len(r.closer)) }

// answer does what a question asks for. It fails with a referral or, if ctx ends, its error. It calls waiting before
// it begins to wait, if that is not nil.
func (s *Service) answer(ctx context.Context, q *question, waiting func()) (*Answer, error) {
	key := place(q.key)
	if !q.final {
		if closer := s.cfg.Directory.Closer(key, closerNamed, slices.Concat(q.avoid, []peer.ID{q.from.ID})); len(closer) > 0 {
			s.metrics.announces.WithLabelValues("redirected").Inc()
			return nil, &referral{closer}
		}
	}
	var holders []discovery.Member
	if !isTag(q.key) { // What a tag means is in its value, not in who holds it.
		var err error
		if holders, err = s.holders(ctx, q.key); err != nil {
			return nil, fmt.Errorf("find holders of %s: %w", q.key, err)
		}
	}
	s.metrics.announces.WithLabelValues("answered").Inc()
	began := s.cfg.Now()
	over := time.NewTimer(q.wait)
	defer over.Stop()
	for {
		answer, changed := s.ask(q, holders, s.cfg.Now().Sub(began))
		if changed == nil {
			return answer, nil
		}
		if waiting != nil {
			s.metrics.waits.Inc()
			waiting()
			waiting = nil
		}
		select {
		case <-changed:
			s.doneWaiting()
		case <-over.C:
			s.doneWaiting()
			return answer, nil
		case <-ctx.Done():
			s.doneWaiting()
			return nil, fmt.Errorf("wait for %s: %w", q.key, ctx.Err())
		}
	}
}

func (s *Service) doneWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
}

// ask asks the tracker once. A channel says to wait until it is closed, and then to ask again; doneWaiting is to be
// called in between.
func (s *Service) ask(q *question, holders []discovery.Member, waited time.Duration) (*Answer, <-chan struct{}) {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = now
	s.members.Add(q.announce.Member, q.from)
	blob := q.key
	if isTag(q.key) {
		t, value := s.tagFor(now, q, waited)
		if value != nil {
			return &Answer{Assignment: swarm.Assignment{Size: -1}, Value: value}, nil
		}
		blob = t.name(q.key)
	}
	var known []swarm.Neighbour
	for _, h := range holders {
		if h.ID == q.from.ID {
			continue
		}
		s.members.Add(ID(h.ID), h)
		known = append(known, swarm.Neighbour{Member: ID(h.ID), Zone: h.Zone})
	}
	group := s.tracker.Group(blob, q.announce.Size)
	assigned := s.tracker.Announce(now, blob, q.announce, known)
	if s.hopeless(now, blob, q, assigned) {
		s.tracker.Announce(now, blob, swarm.Announce{Member: q.announce.Member, Size: -1, Leaving: true}, nil)
		assigned = swarm.Assignment{Size: assigned.Size, NoSource: true, Again: assigned.Again}
	}
	s.promised(now, blob, q, len(assigned.Leases) > 0)
	s.wake(blob, q.value != nil) // Also those who don't know the size.
	s.wake(group, false)
	answer := &Answer{Assignment: assigned, Members: map[swarm.ID]discovery.Member{}}
	s.address(answer)
	if !assigned.Wait || q.wait <= waited {
		return answer, nil
	}
	if s.waiting >= s.cfg.Waiting {
		s.metrics.announces.WithLabelValues("crowded").Inc()
		return answer, nil
	}
	s.waiting++
	w, ok := s.watches[group]
	if !ok {
		w = &watch{changed: make(chan struct{}), version: s.tracker.Changed(group)}
		s.watches[group] = w
	}
	return answer, w.changed
}

// hopeless tells whether somebody got a final no from upstream a moment ago for something small that nobody has. To
// send one member after the other there would make all of them wait for what each of them can ask at the same time. The
// caller holds the lock.
func (s *Service) hopeless(now time.Time, blob string, q *question, a swarm.Assignment) bool {
	if q.announce.Upstream == swarm.Refused {
		s.refused.Add(blob, now)
	}
	if q.announce.Complete || q.value != nil {
		s.refused.Remove(blob)
	}
	since, refused := s.refused.Get(blob)
	sent := a.Wait || slices.ContainsFunc(a.Leases, func(l swarm.Lease) bool { return l.From == "" })
	return q.renew > 0 && refused && now.Sub(since) < refusedFor && sent
}

// promised notes when a member with a lease is to be heard again. The caller holds the lock.
func (s *Service) promised(now time.Time, blob string, q *question, leased bool) {
	p := promise{blob, q.announce.Member}
	if _, known := s.promises[p]; leased && q.renew > 0 && (known || len(s.promises) < maxPromises) {
		s.promises[p] = now.Add(q.renew)
	} else {
		delete(s.promises, p)
	}
}

// address adds how those are reached whom the answer names, and leaves out whom it can't tell that of. The caller holds
// the lock.
func (s *Service) address(a *Answer) {
	unknown := func(id swarm.ID) bool {
		m, ok := s.members.Peek(id)
		if ok {
			a.Members[id] = m
		}
		return !ok
	}
	a.Holders = slices.DeleteFunc(a.Holders, unknown)
	a.Neighbours = slices.DeleteFunc(a.Neighbours, func(n swarm.Neighbour) bool { return unknown(n.Member) })
	a.Leases = slices.DeleteFunc(a.Leases, func(l swarm.Lease) bool { return l.From != "" && unknown(l.From) })
}

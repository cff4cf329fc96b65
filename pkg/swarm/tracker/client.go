package tracker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/discovery"
	kioo "github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
)

// ErrSilent says that no member that could be the tracker answered in time.
var ErrSilent = errors.New("no tracker answers")

const (
	// candidates is how many members are tried: the tracker and those that stand in for it.
	candidates = 3
	// maxRedirects is how often an announce follows a redirect. Whom the last one names answers, closest or not.
	maxRedirects = 2
	// hedgeAfter is how long the tracker may take at least before the next-closest member is asked as well. A member
	// that is connected answers within a millisecond, or says at once that the announce has arrived.
	hedgeAfter = 250 * time.Millisecond
	// hedgeFirst is the same for a member without a connection. TCP and TLS take some milliseconds, and hundreds while
	// a whole cluster starts to pull and every member connects to one at the same moment. Just then a second
	// tracker is at its dearest: it means one more copy from upstream. Who refuses is known at once in any case.
	hedgeFirst = 500 * time.Millisecond
	// hedgeTimes is how many times as long as usual it may take: where processors are busy everything is slow, and more
	// requests would make that worse. hedgeMost bounds it.
	hedgeTimes = 4
	hedgeMost  = time.Second
	// arriveWithin is how long an announce may take to arrive, and again its answer beyond the wait that it allows.
	arriveWithin = 1500 * time.Millisecond
	// connectedFor is how long after an answer its connection is expected to be still there.
	connectedFor = 50 * time.Second
	// silentFor is how long a member that was silent is passed over. If it is dead, discovery knows by then; and if it
	// is not, all agree on it again.
	silentFor = 5 * time.Second
	// lateFor is the same for a member that was only slower than the next one. As long as some rely on the one and some
	// on the other, they know nothing of each other.
	lateFor = time.Second
	// liedFor is for how long nobody is asked who answered what can't be.
	liedFor = 10 * time.Minute
)

// Locator finds trackers.
type Locator interface {
	Self() discovery.Member
	// Nearest gives the members closest to a key as far as they are known here, this one included. It does not wait.
	Nearest(key discovery.Key, n int) []discovery.Member
	// ReportDead tells that a member could not be reached.
	ReportDead(id peer.ID)
}

// Caller sends requests to the peer API of other members.
type Caller interface {
	Call(ctx context.Context, method string, addrs []string, path string, body []byte) (*http.Response, error)
}

// ClientConfig is what a client needs.
type ClientConfig struct {
	Locator Locator
	Caller  Caller
	// Service answers where this member is the tracker.
	Service *Service
	// Violations notes what members say that they can't mean. Nil notes nothing.
	Violations *kioo.Violations

	Now        func() time.Time
	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Client announces to trackers. It is safe for concurrent use.
type Client struct {
	cfg     ClientConfig
	metrics *clientMetrics
	members *lru.Cache[swarm.ID, discovery.Member]
	heard   *lru.Cache[peer.ID, time.Time]
	silent  *lru.Cache[peer.ID, time.Time] // Until when.
	clocks  *lru.Cache[peer.ID, heardClock]
	usual   atomic.Int64 // How long announces take to arrive, as a moving average.

	ctx    context.Context // What is said to those whose answer came too late lives on it.
	cancel context.CancelFunc
	late   sync.WaitGroup
}

// NewClient makes a client.
func NewClient(cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg, metrics: newClientMetrics(cfg.Registerer)}
	var err error
	if c.members, err = lru.New[swarm.ID, discovery.Member](maxRemembered); err != nil {
		return nil, fmt.Errorf("make memory of members: %w", err)
	}
	if c.heard, err = lru.New[peer.ID, time.Time](maxRemembered); err != nil {
		return nil, fmt.Errorf("make memory of connections: %w", err)
	}
	if c.silent, err = lru.New[peer.ID, time.Time](maxAvoid); err != nil {
		return nil, fmt.Errorf("make memory of silent members: %w", err)
	}
	if c.clocks, err = lru.New[peer.ID, heardClock](maxRemembered); err != nil {
		return nil, fmt.Errorf("make memory of clocks: %w", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends what still runs. No announce may come any more.
func (c *Client) Close() {
	c.cancel()
	c.late.Wait()
}

// Announce tells the tracker of a digest what this member wants or has, and gives its answer. The announce's Member
// and Zone are filled in. While there is nothing to do but somebody else gets the blob, it waits, for a second
// or so. ErrSilent means to go on without a tracker.
func (c *Client) Announce(ctx context.Context, key string, a swarm.Announce) (Answer, error) {
	return c.ask(ctx, question{key: key, announce: a, wait: maxWait})
}

// Small is an announce of something that is one piece: a tag, a manifest or a small blob.
type Small struct {
	swarm.Announce
	// Renew is within what time this member announces again if it gets a lease. If it does not, it died, and the lease
	// goes to another member. Zero leaves that to the tracker, which is more patient.
	Renew time.Duration
	// Value is what upstream said a tag means, if this member asked.
	Value *TagValue
	// Within is how long ago a tag's meaning may have been confirmed to be believed.
	Within time.Duration
}

// AnnounceSmall is Announce for what is one piece. The key is a digest, or a tag's full name
// "registry/repository:tag", whose size is 1.
func (c *Client) AnnounceSmall(ctx context.Context, key string, s Small) (Answer, error) {
	return c.ask(ctx, question{key: key, announce: s.Announce, wait: maxWait, renew: min(s.Renew, maxAge), value: s.Value, within: min(s.Within, maxAge)})
}

// Member gives what was last heard of a member that an answer named: where it is reached, and its zone.
func (c *Client) Member(id swarm.ID) (discovery.Member, bool) { return c.members.Get(id) }

func (c *Client) ask(ctx context.Context, q question) (Answer, error) {
	if err := checkKey(q.key); err != nil {
		return Answer{}, fmt.Errorf("announce: %w", err)
	}
	q.from = c.cfg.Locator.Self()
	q.announce.Member, q.announce.Zone = ID(q.from.ID), q.from.Zone
	if q.announce.Complete || q.announce.Leaving {
		q.wait = 0
	}
	r := &round{client: c, question: q, targets: c.targets(q)}
	answer, err := r.run(ctx)
	if err != nil {
		c.metrics.announces.WithLabelValues("none").Inc()
		return Answer{}, fmt.Errorf("announce %s: %w", q.key, err)
	}
	for id, m := range answer.Members {
		c.members.Add(id, m)
	}
	return *answer, nil
}

// targets gives whom to ask, in this order: the closest members, without those that were silent a moment ago.
func (c *Client) targets(q question) []discovery.Member {
	var targets []discovery.Member
	for _, m := range c.cfg.Locator.Nearest(place(q.key), candidates+maxAvoid) {
		if len(targets) < candidates && (m.ID == q.from.ID || len(m.PeerAPI) > 0 && !c.isSilent(m.ID)) {
			targets = append(targets, m)
		}
	}
	return targets
}

func (c *Client) isSilent(id peer.ID) bool {
	until, known := c.silent.Peek(id)
	return known && c.cfg.Now().Before(until)
}

// passOver has a member not asked for a time; for all of silentFor if it has been passed over a moment ago already, and
// has not answered since.
func (c *Client) passOver(id peer.ID, within time.Duration) {
	now := c.cfg.Now()
	until := now.Add(within)
	if last, again := c.silent.Peek(id); again {
		until = now.Add(silentFor)
		if last.After(until) {
			until = last
		}
	}
	c.silent.Add(id, until)
}

// hedge is how long to wait for a member before the next one is asked as well.
func (c *Client) hedge(m discovery.Member) time.Duration {
	least := hedgeFirst
	if last, ok := c.heard.Peek(m.ID); ok && c.cfg.Now().Sub(last) < connectedFor {
		least = hedgeAfter
	}
	return min(max(least, hedgeTimes*time.Duration(c.usual.Load())), hedgeMost)
}

// took notes how long a member took to take an announce in.
func (c *Client) took(d time.Duration) {
	was := c.usual.Load()
	c.usual.Store(was + (int64(d)-was)/8) // One that is lost between the two is no loss.
}

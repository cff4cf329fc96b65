package tracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// round is one announce on its way to its tracker. It belongs to one goroutine.
type round struct {
	client   *Client
	question question
	targets  []discovery.Member

	attempts []*attempt
	results  chan result
	arrived  chan *attempt
	running  int
}

// attempt is one target, and whom it referred to.
type attempt struct {
	target  discovery.Member
	cancel  context.CancelFunc
	arrived bool // It is heard, and may take its time.
	done    bool
	err     error
}

// result is how an attempt ended.
type result struct {
	*attempt
	answer *Answer
	err    error
}

// pending says that a member has the announce and will answer.
func (a *attempt) pending() bool { return a.arrived && !a.done }

// run asks the targets in order: the next one at once when one fails, and as well when one is silent. The first answer
// counts. When it returns, none of its goroutines is left.
func (r *round) run(ctx context.Context) (*Answer, error) {
	r.results, r.arrived = make(chan result), make(chan *attempt)
	due := time.NewTimer(0)
	defer due.Stop()
	var (
		won    *attempt
		answer *Answer
		last   = errors.New("there is nobody to ask")
	)
	more := func() bool { return won == nil && len(r.attempts) < len(r.targets) && ctx.Err() == nil }
	for r.running > 0 || more() {
		var next <-chan time.Time
		if more() && !slices.ContainsFunc(r.attempts, (*attempt).pending) {
			next = due.C
		}
		select {
		case <-next:
			due.Reset(r.start(ctx))
		case a := <-r.arrived:
			a.arrived = true
		case ended := <-r.results:
			r.running--
			ended.done, ended.attempt.err = true, ended.err
			switch {
			case won != nil:
			case ended.err == nil:
				won, answer = ended.attempt, ended.answer
				r.settle(won)
			default:
				last = ended.err
				due.Reset(0)
			}
		}
	}
	for _, a := range r.attempts {
		a.cancel()
	}
	switch {
	case won != nil:
		r.takeBack(won)
		return answer, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("%w: %w", ErrSilent, last)
}

// settle ends the other attempts. Who was too late for an answer is passed over for a while: to go back and forth
// between two trackers would mean leases of both.
func (r *round) settle(won *attempt) {
	for i, a := range r.attempts {
		a.cancel()
		if i < slices.Index(r.attempts, won) && !a.done {
			r.client.passOver(a.target.ID, lateFor)
		}
	}
}

// start asks the next target, and gives how long it has before the one after it is asked.
func (r *round) start(ctx context.Context) time.Duration {
	c := r.client
	a := &attempt{target: r.targets[len(r.attempts)]}
	q := r.question
	for _, id := range c.silent.Keys() {
		if c.isSilent(id) {
			q.avoid = append(q.avoid, id)
		}
	}
	for _, before := range r.attempts {
		q.avoid = append(q.avoid, before.target.ID)
		if !before.done {
			c.metrics.hedges.Inc()
		}
	}
	q.avoid = q.avoid[max(0, len(q.avoid)-maxAvoid):]
	ctx, a.cancel = context.WithCancel(ctx)
	r.attempts = append(r.attempts, a)
	r.running++
	go func() {
		answer, err := c.follow(ctx, q, a.target, func() { r.arrived <- a })
		r.results <- result{a, answer, err}
	}()
	return c.hedge(a.target)
}

// takeBack tells those whose answer came too late that it was not needed: they may have given a lease.
func (r *round) takeBack(won *attempt) {
	c := r.client
	for _, a := range r.attempts {
		if a == won || errors.Is(a.err, peer.ErrDead) || errors.Is(a.err, peer.ErrLied) || r.question.announce.Leaving || r.question.announce.Complete {
			continue
		}
		q := question{key: r.question.key, from: r.question.from, final: true}
		q.announce = swarm.Announce{Member: ID(q.from.ID), Zone: q.from.Zone, Size: -1, Leaving: true}
		c.late.Go(func() {
			ctx, cancel := context.WithTimeout(c.ctx, arriveWithin)
			defer cancel()
			if _, _, err := c.once(ctx, q, a.target, func() {}); err != nil {
				c.cfg.Log.V(1).Info("member keeps a lease for us that we do not need", "key", q.key, "member", q.announce.Member, "reason", err.Error())
			}
		})
	}
}

// follow announces to a member, and to whom it refers.
func (c *Client) follow(ctx context.Context, q question, to discovery.Member, arrived func()) (*Answer, error) {
	for hops := 0; ; hops++ {
		q.final = hops == maxRedirects
		answer, closer, err := c.once(ctx, q, to, arrived)
		if err != nil {
			c.failed(ctx, to, q.key, err)
			return nil, err
		}
		c.heard.Add(to.ID, c.cfg.Now())
		c.silent.Remove(to.ID)
		if answer != nil {
			result := "peer"
			if to.ID == q.from.ID {
				result = "self"
			}
			c.metrics.announces.WithLabelValues(result).Inc()
			answer.By = ID(to.ID)
			return answer, nil
		}
		c.metrics.redirects.Inc()
		to = closer[0]
	}
}

// failed takes note of a member that did not answer, unless it is us who gave up.
func (c *Client) failed(ctx context.Context, m discovery.Member, key string, err error) {
	if m.ID != c.cfg.Locator.Self().ID && c.cfg.Violations.Note(m.ID.String(), strings.Join(m.PeerAPI, " "), key, err) {
		c.silent.Add(m.ID, c.cfg.Now().Add(liedFor))
		return
	}
	if ctx.Err() != nil {
		return
	}
	c.passOver(m.ID, silentFor)
	c.heard.Remove(m.ID)
	c.metrics.silent.Inc()
	if errors.Is(err, peer.ErrDead) {
		c.cfg.Locator.ReportDead(m.ID)
	}
	c.cfg.Log.V(1).Info("tracker passed over", "peer", m.ID.String(), "address", m.PeerAPI, "reason", err.Error())
}

// once asks one member. It gives an answer, or those that are closer. It calls arrived when the member has taken the
// announce in.
func (c *Client) once(ctx context.Context, q question, to discovery.Member, arrived func()) (*Answer, []discovery.Member, error) {
	if to.ID == q.from.ID {
		answer, err := c.cfg.Service.answer(ctx, &q, arrived)
		var away *referral
		if errors.As(err, &away) {
			return nil, away.closer, nil
		}
		return answer, nil, err
	}
	asked := c.cfg.Now()
	var theirs *heardClock
	if heard, ok := c.clocks.Get(to.ID); ok {
		theirs = &heard
	}
	body, err := q.encode(asked, theirs)
	if err != nil {
		return nil, nil, fmt.Errorf("encode announce: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(arriveWithin, func() { cancel(errLate) })
	defer late.Stop()
	began := time.Now()
	resp, err := c.cfg.Caller.Call(ctx, http.MethodPost, to.PeerAPI, Path, body)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	late.Reset(q.wait + arriveWithin)
	c.took(time.Since(began))
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusMisdirectedRequest {
		return nil, nil, fmt.Errorf("announce to %s: status %d", to.PeerAPI[0], resp.StatusCode)
	}
	if resp.StatusCode == http.StatusOK {
		arrived()
	}
	answer, closer, err := q.hear(resp.Body, asked)
	if err != nil {
		return nil, nil, fmt.Errorf("announce to %s: %w", to.PeerAPI[0], err)
	}
	if answer.clock.Name != "" {
		c.clocks.Add(to.ID, heardClock{answer.clock, c.cfg.Now()})
	}
	if resp.StatusCode == http.StatusOK {
		return answer, nil, nil
	}
	closer = slices.DeleteFunc(closer, func(m discovery.Member) bool { return m.ID == q.from.ID || slices.Contains(q.avoid, m.ID) })
	if len(closer) == 0 {
		return nil, nil, fmt.Errorf("announce to %s: %w: referred to nobody", to.PeerAPI[0], errMalformed)
	}
	return nil, closer, nil
}

// hear reads what a member answers to a question that was asked at a time.
func (q *question) hear(body io.Reader, asked time.Time) (*Answer, []discovery.Member, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxResponse))
	if err != nil {
		return nil, nil, err
	}
	if len(text) == 0 {
		return nil, nil, errors.New("it began to answer, and did not")
	}
	answer, closer, err := decodeAnswer(text, asked)
	if err != nil {
		return nil, nil, err
	}
	return answer, closer, answer.check(q)
}

// errLate ends an announce that a member does not take in, or does not answer.
var errLate = errors.New("no answer in time")

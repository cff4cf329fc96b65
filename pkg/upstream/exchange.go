package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/sleep"
	"github.com/opencontainers/go-digest"
)

// request is one question to a registry, whichever endpoint answers it.
type request struct {
	op     string
	method string
	repo   reference.Repository
	object string // The tag or digest, for errors.
	path   string // Below /v2/<name>.
	query  url.Values
	header http.Header
	origin Origin
	// verified says that a digest protects what comes back.
	verified bool
	// blob is set for GETs of blobs, whose redirects are remembered.
	blob digest.Digest
	// manifest says that it is for a manifest.
	manifest bool
	// also are statuses below 400 that are wanted besides 200 and 206.
	also []int
	// asked is what is asked for, as far as it says something of who may read.
	asked access.Asked
	// speaker and status are who answered last, and how; named says that the answer is of what was asked for.
	speaker access.Speaker
	status  int
	named   bool
}

// url is where an endpoint has what is asked for.
func (r *request) url(ep *endpoint) *url.URL {
	u := ep.url.JoinPath("v2", ep.repository(r.repo), r.path)
	query := url.Values{}
	for name, values := range r.query {
		query[name] = values
	}
	if ep.ns {
		query.Set("ns", r.repo.Registry)
	}
	u.RawQuery = query.Encode()
	return u
}

// target is what a redirect of this request is remembered under.
func (r *request) target(ep *endpoint) targetKey {
	return targetKey{endpoint: ep, repository: r.repo.Path, digest: r.blob}
}

// ask tries the registry's endpoints in order, and again with pauses while that may help, until use accepts an
// answer. use owns the answer's body. An endpoint's failure of any kind leads to the next one: a cache that stands
// before the registry must not fail what the registry has. The last endpoint has the last word.
func (c *Client) ask(ctx context.Context, reg *registry, r *request, use func(i int, resp *http.Response) error) error {
	err := c.attempts(ctx, reg, r, use)
	c.cfg.Observe(r.answer(err))
	return err
}

// answer is what a question's end says of who may read.
func (r *request) answer(err error) access.Answer {
	a := access.Answer{
		Repository: r.repo, Credentials: r.origin.Credentials,
		Asked: r.asked, Speaker: r.speaker, Status: r.status, Named: r.named && err == nil,
	}
	if r.manifest {
		a.Manifest = r.object
	}
	var failed *Error
	if errors.As(err, &failed) {
		a.Challenge = failed.Challenge
		if r.speaker == access.Nobody && errors.Is(err, ErrDenied) {
			a.Speaker, a.Status = access.Registry, failed.Status // It challenged, and nobody here can answer.
		}
		a.Down = errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrBusy) && r.speaker != access.Storage
	}
	return a
}

// heard notes who answered. A registry may send a request for a manifest on to another registry's API, as
// registry.k8s.io does, which then speaks for it; everything else that it redirects to is storage.
func (r *request) heard(ep *endpoint, resp *http.Response) {
	r.status, r.named, r.speaker = resp.StatusCode, false, access.Storage
	if resp.Request == nil {
		return
	}
	u := resp.Request.URL
	if sameOrigin(u, ep.url) || r.manifest && strings.HasPrefix(u.Path, "/v2/") && strings.HasSuffix(u.Path, "/"+r.path) {
		r.speaker = access.Registry
	}
}

func (c *Client) attempts(ctx context.Context, reg *registry, r *request, use func(int, *http.Response) error) error {
	pause := c.newPause()
	end := time.Now().Add(c.cfg.Retries.Within)
	for attempt := 1; ; attempt++ {
		err := c.round(ctx, reg, r, use)
		if err == nil || !err.retry || attempt >= c.cfg.Retries.Attempts {
			return orNil(err)
		}
		wait, ok := pause.next(ctx, err.RetryAfter)
		if !ok || time.Now().Add(wait).After(end) {
			return err
		}
		if sleep.For(ctx, wait) != nil {
			return err
		}
	}
}

// round asks each endpoint once.
func (c *Client) round(ctx context.Context, reg *registry, r *request, use func(int, *http.Response) error) *Error {
	var earlier []error
	for i, ep := range reg.endpoints {
		last := i == len(reg.endpoints)-1
		if !last && (ep.passed(c.cfg.Now()) || !r.origin.Credentials.IsZero()) {
			continue
		}
		err := c.askOne(ctx, reg, i, r, use)
		if err == nil {
			return nil
		}
		if last || ctx.Err() != nil {
			err.Earlier = earlier
			return err
		}
		c.cfg.Log.V(1).Info("Endpoint passed over", "registry", reg.host, "endpoint", ep.url.Host, "cause", err.Error())
		earlier = append(earlier, err)
	}
	return nil // Unreachable: a registry has endpoints, and the last one returns.
}

func (c *Client) askOne(
	ctx context.Context, reg *registry, i int, r *request, use func(int, *http.Response) error,
) *Error {
	ep := reg.endpoints[i]
	r.speaker, r.status, r.named = access.Nobody, 0, false
	resp, err := c.exchange(ctx, reg, ep, r)
	if err != nil {
		failed := r.failed(ep, ErrUnavailable, err)
		if ctx.Err() == nil && failed.Status == 0 && !errors.Is(failed, ErrInvalid) {
			ep.markDead(c.cfg.Now())
		}
		return failed
	}
	r.heard(ep, resp)
	if s := resp.StatusCode; s != http.StatusOK && s != http.StatusPartialContent && !slices.Contains(r.also, s) {
		return r.refused(ep, resp, time.Now())
	}
	if err := use(i, resp); err != nil {
		return r.failed(ep, ErrInvalid, err)
	}
	return nil
}

// exchange gets one endpoint's answer, by way of its redirects. The answer may have any status.
func (c *Client) exchange(ctx context.Context, reg *registry, ep *endpoint, r *request) (*http.Response, error) {
	if err := ep.knows(r.repo); err != nil {
		return nil, r.broken(ep, err)
	}
	key, shared := r.target(ep), r.blob != "" && r.origin.Credentials.IsZero()
	if known, ok := c.targets.Get(key); ok && shared {
		if c.cfg.Now().Before(known.until) {
			resp, err := c.send(ctx, reg, ep, r, known.url)
			if err == nil && resp.StatusCode/100 == 2 {
				return resp, nil
			}
			if err == nil {
				drain(resp)
			}
		}
		c.targets.Remove(key) // Too old, or it no longer works: the registry knows better.
	}
	until := c.cfg.Now().Add(c.cfg.RedirectsFor)
	u := r.url(ep)
	for range maxRedirects + 1 {
		resp, err := c.send(ctx, reg, ep, r, u)
		if err != nil {
			return nil, err
		}
		if !isRedirect(resp.StatusCode) {
			if shared && resp.StatusCode/100 == 2 && !sameOrigin(u, ep.url) && c.cfg.Now().Before(until) {
				c.targets.Add(key, target{url: u, until: until})
			}
			return resp, nil
		}
		to, err := location(u, resp, r.verified)
		drain(resp)
		if err != nil {
			return nil, r.broken(ep, err)
		}
		if t := redirectUntil(to, resp.Header, c.cfg.Now()); t.Before(until) {
			until = t
		}
		u = to
	}
	return nil, r.broken(ep, errTooManyRedirects)
}

// broken is an answer that can't be used.
func (r *request) broken(ep *endpoint, err error) *Error { return r.failed(ep, ErrInvalid, err) }

// send sends the request to one address. At the endpoint's own origin it answers a challenge; elsewhere it shows
// neither credentials nor for whom it asks.
func (c *Client) send(
	ctx context.Context, reg *registry, ep *endpoint, r *request, u *url.URL,
) (*http.Response, error) {
	req := (&http.Request{
		Method: r.method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: r.header.Clone(),
	}).WithContext(ctx)
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Via", strings.Join(append(slices.Clone(r.origin.Via), "1.1 "+c.cfg.Pseudonym), ", "))
	if !sameOrigin(u, ep.url) {
		return c.roundTrip(ctx, ep.redirects, req, reg.host)
	}
	if r.origin.ForwardedFor != "" {
		req.Header.Set("X-Forwarded-For", r.origin.ForwardedFor)
	}
	if client := r.origin.Credentials; !client.IsZero() {
		req.Header.Set("Authorization", client.Header())
		return c.roundTrip(ctx, ep.direct, req, reg.host)
	}
	gr := ep.grants.get(r.repo, ep.repository(r.repo))
	for challenged := false; ; challenged = true {
		if err := ep.grants.authorize(ctx, gr, req); err != nil {
			return nil, err
		}
		resp, err := c.roundTrip(ctx, ep.direct, req, reg.host)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || challenged ||
			len(resp.Header.Values("WWW-Authenticate")) == 0 {
			return resp, err
		}
		drain(resp)
		resp.Request = req
		gr = ep.grants.renew(gr, resp)
		req = req.Clone(ctx)
		req.Header.Del("Authorization")
	}
}

// pause says how long to wait before the next attempt. It belongs to one goroutine.
type pause struct {
	backoff backoff.ExponentialBackOff
	most    time.Duration
}

func (c *Client) newPause() *pause {
	return &pause{
		backoff: backoff.ExponentialBackOff{
			InitialInterval: c.cfg.Retries.Base, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: c.cfg.Retries.Max / 2,
		},
		most: c.cfg.Retries.Max,
	}
}

// next gives the wait: the registry's wish where it has one. It is not ok where the wish is more than we wait, or
// the wait would outlast ctx.
func (p *pause) next(ctx context.Context, wish time.Duration) (time.Duration, bool) {
	wait := p.backoff.NextBackOff()
	if wish > 0 {
		// A little later than asked for, and not all at once.
		wait = wish + min(wait, wish)/4
	}
	if wish > p.most {
		return 0, false
	}
	deadline, ok := ctx.Deadline()
	return wait, !ok || time.Now().Add(wait).Before(deadline)
}

// orNil keeps a nil *Error from becoming an error that is not nil.
func orNil(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}

// open finds the registry of a request and waits for leave to send it.
func (c *Client) open(ctx context.Context, r *request, bulk bool) (*registry, func(), error) {
	reg, err := c.registry(r.repo)
	if err != nil {
		return nil, nil, r.failed(nil, ErrUnavailable, err)
	}
	release, err := reg.acquire(ctx, bulk, c.cfg.Timeouts.Queue)
	if err != nil {
		return nil, nil, r.failed(nil, ErrUnavailable, err)
	}
	return reg, release, nil
}

// small asks for something that fits into memory, and hands its bytes and headers to use. More than most bytes are
// refused.
func (c *Client) small(
	ctx context.Context, r *request, most int64, use func(ep *endpoint, resp *http.Response, body []byte) error,
) error {
	reg, release, err := c.open(ctx, r, false)
	if err != nil {
		return err
	}
	defer release()
	return c.ask(ctx, reg, r, func(i int, resp *http.Response) error {
		defer resp.Body.Close()
		ep := reg.endpoints[i]
		if r.method == http.MethodHead {
			return use(ep, resp, nil)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
		if int64(len(body)) > most || resp.ContentLength > most {
			return r.failed(ep, ErrTooLarge, errTooLarge(most))
		}
		if err != nil {
			return r.failed(ep, ErrUnavailable, err)
		}
		if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
			return errEncoded
		}
		return use(ep, resp, body)
	})
}

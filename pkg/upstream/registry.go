package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// minStep and maxStep bound how many bytes are read at once under a cap.
const minStep, maxStep = 4 << 10, 256 << 10

// coolDown is how long an endpoint that could not be reached is passed over while another one follows it: a dead
// corporate cache must not cost every request its connect timeout.
const coolDown = 30 * time.Second

// Registry says how one registry is reached.
type Registry struct {
	// Name tells apart what is configured for parts of one registry: each has connections, tokens and limits of its own.
	Name string
	// Endpoints are asked in order until one has what is wanted. The last one's word is final: let that be the
	// registry itself. Empty means the registry's own address; for docker.io that is registry-1.docker.io, and for
	// loopback hosts plain HTTP.
	Endpoints []Endpoint
	// MaxConcurrent is how many requests run at a time. Default: Config.MaxConcurrent.
	MaxConcurrent int
	// BytesPerSecond caps blobs, all of them together. Default: no cap.
	BytesPerSecond int64
}

// Endpoint is one server that answers for a registry.
type Endpoint struct {
	// URL is "https://host[:port][/path]", or http for plain HTTP. A path goes before /v2.
	URL string
	// Rewrite gives what the server calls a repository. Default: what it is called.
	Rewrite func(repo reference.Repository) (string, error)
	// Unlisted says that nobody configured this endpoint: it is where a name says that its registry is, and names come
	// from clients. Addresses that are for nobody are then refused, and this machine's own unless the name says so.
	Unlisted bool
	// CAFile holds certificates in PEM that are trusted besides the system's. Default: none.
	CAFile string
	// ClientCertFile and ClientKeyFile are shown to this endpoint alone, never to where it redirects. They are read
	// anew for every connection, so renewed ones need no restart. Default: none.
	ClientCertFile, ClientKeyFile string
	// MirrorsNamespace sends ns=<registry> along, for a server that mirrors many registries itself.
	MirrorsNamespace bool
}

// Check says what is wrong with an endpoint, its files included.
func (e Endpoint) Check() error {
	if _, err := e.parse(); err != nil {
		return err
	}
	_, err := e.tls().config()
	return err
}

func (e Endpoint) parse() (*url.URL, error) {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("endpoint %q is no URL", clean(e.URL))
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("endpoint %q begins with neither https:// nor http://", clean(e.URL))
	case u.Host == "" || u.Opaque != "":
		return nil, fmt.Errorf("endpoint %q has no host", clean(e.URL))
	case u.User != nil:
		return nil, fmt.Errorf("endpoint %q holds credentials; they belong into the credentials file", clean(e.URL))
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("endpoint %q has a query or a fragment", clean(e.URL))
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" // What is joined to it must not begin without a slash.
	if strings.HasSuffix(u.Path, "/v2/") {
		return nil, fmt.Errorf("endpoint %q ends in /v2, which is added by itself", clean(e.URL))
	}
	return u, nil
}

func (e Endpoint) tls() tlsFiles {
	return tlsFiles{ca: e.CAFile, cert: e.ClientCertFile, key: e.ClientKeyFile}
}

// registry is what is remembered of a registry while it is in use.
type registry struct {
	host      string
	endpoints []*endpoint
	all       *semaphore.Weighted // Every request.
	bulk      *semaphore.Weighted // Blobs, which may not take all of the above.
	limit     *rate.Limiter       // Of blobs' bytes; nil without a cap.
}

// registryKey is what a registry's state is remembered under.
type registryKey struct{ host, name string }

// endpoint is a server with what it needs: connections, tokens, and whether it was found dead.
type endpoint struct {
	url       *url.URL
	rewrite   func(reference.Repository) (string, error)
	ns        bool
	direct    http.RoundTripper // For the endpoint itself: shows the client certificate.
	away      http.RoundTripper // For every other origin.
	redirects http.RoundTripper // For those that the endpoint redirects to.
	outside   http.RoundTripper // For other origins that must be at public addresses.
	trusted   http.RoundTripper // For other origins that are named by who is trusted: anywhere but where nobody is meant.
	grants    *grants
	dead      atomic.Int64 // Until when it is passed over, in Unix nanoseconds.
}

// registry finds or makes the state of a repository's registry.
func (c *Client) registry(repo reference.Repository) (*registry, error) {
	c.making.Lock()
	defer c.making.Unlock()
	host, cfg := repo.Registry, c.cfg.Registries(repo)
	key := registryKey{host, cfg.Name}
	if r, ok := c.registries.Get(key); ok {
		return r, nil
	}
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints = []Endpoint{{URL: reference.BaseURL(host), Unlisted: true}}
	}
	if cfg.MaxConcurrent <= 0 {
		cfg.MaxConcurrent = c.cfg.MaxConcurrent
	}
	n := int64(cfg.MaxConcurrent)
	r := &registry{host: host, all: semaphore.NewWeighted(n), bulk: semaphore.NewWeighted(n - n/4)}
	if cfg.BytesPerSecond > 0 {
		r.limit = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), int(min(max(cfg.BytesPerSecond/8, minStep), maxStep)))
	}
	for _, e := range cfg.Endpoints {
		ep, err := c.endpoint(e)
		if err != nil {
			return nil, fmt.Errorf("reach registry %s: %w", host, err)
		}
		r.endpoints = append(r.endpoints, ep)
	}
	c.registries.Add(key, r)
	return r, nil
}

func (c *Client) endpoint(e Endpoint) (*endpoint, error) {
	u, err := e.parse()
	if err != nil {
		return nil, err
	}
	files := e.tls()
	direct, err := c.transports.get(files)
	if err != nil {
		return nil, err
	}
	away, err := c.transports.get(tlsFiles{ca: files.ca})
	if err != nil {
		return nil, err
	}
	outside, err := c.transports.get(tlsFiles{ca: files.ca, outside: true})
	if err != nil {
		return nil, err
	}
	ep := &endpoint{url: u, rewrite: e.Rewrite, ns: e.MirrorsNamespace, direct: direct, away: away, outside: outside}
	c.guard(ep, e)
	ep.grants, err = newGrants(c, ep)
	return ep, err
}

// repository is the repository's name as this endpoint knows it, empty if it can have none there.
func (e *endpoint) repository(repo reference.Repository) string {
	if e.rewrite == nil {
		return repo.Path
	}
	path, err := e.rewrite(repo)
	if err != nil {
		return ""
	}
	return path
}

// knows says why a repository can't be asked for at this endpoint, if it can't.
func (e *endpoint) knows(repo reference.Repository) error {
	if e.rewrite == nil {
		return nil
	}
	_, err := e.rewrite(repo)
	return err
}

// passed says whether the endpoint was found dead a short while ago.
func (e *endpoint) passed(now time.Time) bool { return now.UnixNano() < e.dead.Load() }

func (e *endpoint) markDead(now time.Time) { e.dead.Store(now.Add(coolDown).UnixNano()) }

// ErrBusy says that a registry's allowance of concurrent requests stayed used up: nothing was asked, so it says nothing
// about the registry. Errors that match it match ErrUnavailable too.
var ErrBusy = errors.New("too many requests to this registry are running")

// acquire waits for leave to send a request, and gives what ends it. The wait ends with ctx or Timeouts.Queue.
func (r *registry) acquire(ctx context.Context, bulk bool, most time.Duration) (release func(), err error) {
	wait, cancel := context.WithTimeoutCause(ctx, most, ErrBusy)
	defer cancel()
	if bulk {
		if err := r.bulk.Acquire(wait, 1); err != nil {
			return nil, context.Cause(wait)
		}
	}
	if err := r.all.Acquire(wait, 1); err != nil {
		if bulk {
			r.bulk.Release(1)
		}
		return nil, context.Cause(wait)
	}
	return func() {
		r.all.Release(1)
		if bulk {
			r.bulk.Release(1)
		}
	}, nil
}

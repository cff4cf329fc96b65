package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"golang.org/x/sync/semaphore"
)

// coolDown is how long an endpoint that could not be reached is passed over while another one follows it: a dead
// corporate cache must not cost every request its connect timeout.
const coolDown = 30 * time.Second

// Registry says how one registry is reached.
type Registry struct {
	// Endpoints are asked in order until one has what is wanted. The last one's word is final: let that be the
	// registry itself. Empty means the registry's own address; for docker.io that is registry-1.docker.io, and for
	// loopback hosts plain HTTP.
	Endpoints []Endpoint
	// MaxConcurrent is how many requests run at a time. Default: Config.MaxConcurrent.
	MaxConcurrent int
}

// Endpoint is one server that answers for a registry.
type Endpoint struct {
	// URL is "https://host[:port][/path]", or http for plain HTTP. A path goes before /v2.
	URL string
	// RepositoryPrefix goes before the repository's name, as caches want it that keep several registries apart by
	// project: "dockerhub" asks for /v2/dockerhub/library/nginx. Default: none.
	RepositoryPrefix string
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
	if e.RepositoryPrefix != "" {
		if _, err := reference.NewRepository("", e.RepositoryPrefix); err != nil {
			return nil, fmt.Errorf("endpoint %q: repository prefix: %w", clean(e.URL), err)
		}
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
}

// endpoint is a server with what it needs: connections, tokens, and whether it was found dead.
type endpoint struct {
	url     *url.URL
	prefix  string
	ns      bool
	direct  http.RoundTripper // For the endpoint itself: shows the client certificate.
	away    http.RoundTripper // For every other origin.
	outside http.RoundTripper // For other origins that must be at public addresses.
	grants  *grants
	dead    atomic.Int64 // Until when it is passed over, in Unix nanoseconds.
}

// registry finds or makes a registry's state.
func (c *Client) registry(host string) (*registry, error) {
	c.making.Lock()
	defer c.making.Unlock()
	if r, ok := c.registries.Get(host); ok {
		return r, nil
	}
	cfg := c.cfg.Registries(host)
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints = []Endpoint{defaultEndpoint(host)}
	}
	if cfg.MaxConcurrent <= 0 {
		cfg.MaxConcurrent = c.cfg.MaxConcurrent
	}
	n := int64(cfg.MaxConcurrent)
	r := &registry{host: host, all: semaphore.NewWeighted(n), bulk: semaphore.NewWeighted(n - n/4)}
	for _, e := range cfg.Endpoints {
		ep, err := c.endpoint(e)
		if err != nil {
			return nil, fmt.Errorf("reach registry %s: %w", host, err)
		}
		r.endpoints = append(r.endpoints, ep)
	}
	c.registries.Add(host, r)
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
	ep := &endpoint{url: u, prefix: e.RepositoryPrefix, ns: e.MirrorsNamespace, direct: direct, away: away, outside: outside}
	ep.grants, err = newGrants(c, ep)
	return ep, err
}

func defaultEndpoint(host string) Endpoint {
	switch {
	case host == reference.DockerHub:
		return Endpoint{URL: "https://registry-1.docker.io"}
	case isLoopback(host):
		return Endpoint{URL: "http://" + host}
	}
	return Endpoint{URL: "https://" + host}
}

func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// repository is the repository's name as this endpoint knows it.
func (e *endpoint) repository(repo reference.Repository) string {
	if e.prefix == "" {
		return repo.Path
	}
	return e.prefix + "/" + repo.Path
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

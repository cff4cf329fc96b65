package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/reference"
)

const (
	// maxGrants bounds for how many repositories an endpoint's tokens are remembered.
	maxGrants = 1024
	// maxTokenBytes bounds a token service's answer.
	maxTokenBytes = 1 << 20
)

// grants holds an endpoint's authorisations, one for each repository. Safe for concurrent use.
//
// containerd's authorizer is made for one pull: it keeps every token it ever got, and every error too, so that a token
// service that failed once would have failed forever. Hence one of them for each repository, replaced as a whole when
// a token is refused or could not be had.
type grants struct {
	client   *Client
	endpoint *endpoint
	tokens   *http.Client

	mu    sync.Mutex
	cache *lru.Cache[string, *grant]
}

// grant answers challenges for one repository.
type grant struct {
	authorizer docker.Authorizer
	name       reference.Repository
	repository string         // As the endpoint knows it.
	challenge  *http.Response // The 401 that this grant was made to answer; nil for one that was not asked yet.

	// mu is held while the authorizer works: it reads a token's expiry while another goroutine still writes it.
	mu       sync.Mutex
	answered bool
	err      error
}

func newGrants(c *Client, ep *endpoint) (*grants, error) {
	cache, err := lru.New[string, *grant](maxGrants)
	if err != nil {
		return nil, fmt.Errorf("make table of tokens: %w", err)
	}
	return &grants{
		client:   c,
		endpoint: ep,
		cache:    cache,
		tokens: &http.Client{
			Transport:     &tokenTransport{endpoint: ep, realms: c.cfg.Realms, proxy: c.cfg.Proxy},
			CheckRedirect: checkTokenRedirect,
			Timeout:       c.cfg.Timeouts.Connect + c.cfg.Timeouts.FirstByte,
		},
	}, nil
}

// get gives a repository's grant: by its name, and as the endpoint knows it.
func (g *grants) get(name reference.Repository, repository string) *grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gr, ok := g.cache.Get(repository); ok {
		return gr
	}
	gr := g.make(name, repository, nil)
	g.cache.Add(repository, gr)
	return gr
}

// renew gives a grant that answers a challenge, after refused was not good enough. Of several requests that were
// refused at once, the first makes the new grant and the others share it.
func (g *grants) renew(refused *grant, challenge *http.Response) *grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gr, ok := g.cache.Get(refused.repository); ok && gr != refused {
		return gr
	}
	gr := g.make(refused.name, refused.repository, &http.Response{
		StatusCode: challenge.StatusCode, Header: challenge.Header, Request: challenge.Request,
	})
	g.cache.Add(refused.repository, gr)
	return gr
}

// drop forgets a grant that did not work.
func (g *grants) drop(gr *grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if current, ok := g.cache.Peek(gr.repository); ok && current == gr {
		g.cache.Remove(gr.repository)
	}
}

func (g *grants) make(name reference.Repository, repository string, challenge *http.Response) *grant {
	own := g.client.cfg.Own(name)
	return &grant{
		name:       name,
		repository: repository,
		challenge:  challenge,
		authorizer: docker.NewDockerAuthorizer(
			docker.WithAuthClient(g.tokens),
			docker.WithAuthHeader(http.Header{"User-Agent": {g.client.cfg.UserAgent}}),
			docker.WithAuthCreds(func(host string) (string, string, error) {
				if !own {
					return "", "", nil
				}
				ctx, cancel := context.WithTimeout(g.client.base, g.client.cfg.Timeouts.FirstByte)
				defer cancel()
				return g.client.creds.get(ctx, host, repository)
			}),
		),
	}
}

// authorize puts the Authorization header on a request, if the repository needs one. The work runs on the client's
// time, not on ctx: others may wait for the same token, and the authorizer would hand them this caller's
// cancellation. It ends by the timeouts of credentials and tokens.
func (g *grants) authorize(ctx context.Context, gr *grant, req *http.Request) error {
	scratch := &http.Request{Method: req.Method, URL: req.URL, Header: make(http.Header)}
	done := make(chan error, 1)
	if !g.client.background(func(ctx context.Context) { done <- gr.authorize(ctx, scratch) }) {
		return errClosed
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-done:
		if err != nil {
			g.drop(gr)
			failed := &authError{err: err}
			if gr.challenge != nil {
				failed.challenge = challengeOf(gr.challenge)
			}
			return failed
		}
	}
	if value := scratch.Header.Get("Authorization"); value != "" {
		req.Header.Set("Authorization", value)
	}
	return nil
}

func (gr *grant) authorize(ctx context.Context, req *http.Request) error {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.challenge != nil && !gr.answered {
		gr.answered = true
		gr.err = gr.authorizer.AddResponses(ctx, []*http.Response{gr.challenge})
	}
	if gr.err != nil {
		return gr.err
	}
	return gr.authorizer.Authorize(docker.WithScope(ctx, "repository:"+gr.repository+":pull"), req)
}

var (
	errClosed      = errors.New("client is closed")
	errPlainRealm  = errors.New("token service without TLS does not get credentials for a registry with TLS")
	errInside      = errors.New("realm is at an address that is not public, and so the client's to ask")
	errTokenAstray = errors.New("token service redirects a request with credentials to another address")
)

// authError is a failure to get what a challenge asks for.
type authError struct {
	err       error
	challenge []string // What could not be answered; empty where nothing was asked.
}

func (e *authError) Error() string { return "answer the registry's challenge: " + e.err.Error() }
func (e *authError) Unwrap() error { return e.err }

// status is what the token service said, 401 where it was never asked or gave no token, and 0 where it could not be
// reached.
func (e *authError) status() int {
	var said remoteerrors.ErrUnexpectedStatus
	var failed *url.Error
	switch {
	case errors.As(e.err, &said) && (said.StatusCode == http.StatusTooManyRequests || said.StatusCode >= 500):
		return said.StatusCode
	case errors.As(e.err, &said):
		return http.StatusUnauthorized
	case errors.Is(e.err, errPlainRealm), errors.Is(e.err, errTokenAstray), errors.Is(e.err, errInside):
		return http.StatusUnauthorized
	case errors.As(e.err, &failed), errors.Is(e.err, io.ErrUnexpectedEOF):
		return 0
	}
	return http.StatusUnauthorized
}

// tokenTransport carries token requests. It bounds the answers, and keeps credentials that are for a registry with
// TLS from a token service without it: whoever names the realm chooses where passwords go.
type tokenTransport struct {
	endpoint *endpoint
	realms   []string
	proxy    func(*http.Request) (*url.URL, error)
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && t.endpoint.url.Scheme == "https" && carriesSecret(req) {
		return nil, errPlainRealm
	}
	rt, err := t.route(req)
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	var refused refusedAddress
	if errors.As(err, &refused) {
		return nil, errInside
	}
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxTokenBytes)
	return resp, nil
}

// route chooses the connections for a token request. Who has credentials for a registry trusts it with naming its token
// service. Everybody else's registry names what it likes, this node's or its cloud's own services among it: without
// credentials only public addresses are asked, and hosts that are known otherwise.
func (t *tokenTransport) route(req *http.Request) (http.RoundTripper, error) {
	switch {
	case sameOrigin(req.URL, t.endpoint.url):
		return t.endpoint.direct, nil
	case carriesSecret(req), slices.Contains(t.realms, strings.ToLower(strings.TrimSuffix(req.URL.Hostname(), "."))):
		return t.endpoint.trusted, nil
	case sameHost(req.URL, t.endpoint.url):
		if _, err := netip.ParseAddr(req.URL.Hostname()); err == nil || reference.IsLoopback(req.URL.Host) {
			return t.endpoint.away, nil
		}
		// Who owns a name has it resolve to what he likes, and to something else each time.
		return t.endpoint.redirects, nil
	}
	if proxy, err := t.proxy(req); err != nil || proxy != nil {
		// The proxy resolves names and has rules of its own; addresses can be judged here.
		if ip, perr := netip.ParseAddr(req.URL.Hostname()); perr == nil && !isPublic(ip) {
			return nil, errInside
		}
		return t.endpoint.away, nil
	}
	return t.endpoint.outside, nil
}

// sameHost compares hosts, whatever the port. All names of this machine are one.
func sameHost(a, b *url.URL) bool {
	return strings.EqualFold(a.Hostname(), b.Hostname()) || reference.IsLoopback(a.Host) && reference.IsLoopback(b.Host)
}

// carriesSecret knows the two ways in which the authorizer sends credentials.
func carriesSecret(req *http.Request) bool {
	return req.Method == http.MethodPost || req.Header.Get("Authorization") != ""
}

// checkTokenRedirect follows redirects of token services, but never to another origin with credentials on board.
func checkTokenRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errTooManyRedirects
	}
	if !sameOrigin(req.URL, via[0].URL) && carriesSecret(via[0]) {
		return errTokenAstray
	}
	return nil
}

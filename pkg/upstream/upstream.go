// Package upstream is the client for the registries that Kioo mirrors: challenges and tokens, ordered endpoints,
// ranges, redirects, retries, and reading on where a connection broke.
//
// It owns no content and no policy. It checks manifests against their digest, because they pass through memory
// anyway; the bytes of blobs it hands on as they come, and who puts them together checks the digest.
//
// Challenges are answered by containerd's remotes/docker authorizer: it behaves as the runtime's own direct pull
// would, and containerd's client is needed anyway. oras-go 2.6 refuses token services on private addresses, which
// breaks registries on premises, and go-containerregistry ties one transport to one repository.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/go-logr/logr"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxRegistries bounds how many registries are remembered: their names come from clients. A registry that falls
	// out loses its tokens and its count of running requests, nothing else.
	maxRegistries = 1024
	// maxTargets bounds how many redirect targets are remembered, at about 2 KiB each.
	maxTargets = 2048
)

// Config configures a Client. The zero value works: every registry at its own address, without credentials.
type Config struct {
	// Registries says how to reach the registry of a repository. Default: each at its own address. It is called for each
	// request, by one goroutine at a time; what it gives under one name is looked at once.
	Registries func(repo reference.Repository) Registry
	// Networks are those that redirects may lead into whatever the address of the registry itself. Others may lead only
	// as far in as that is: see package reach. Default: none.
	Networks []netip.Prefix
	// Credentials is the path of a Docker config.json, whose credHelpers and credsStore are used too, or of a directory
	// that holds one, as a mounted Secret does: see credentialFiles. Default: none. It is read again whenever a registry
	// asks who we are, so a changed secret needs no restart.
	Credentials string
	// Own tells for which repositories Credentials are used. Nil is all.
	Own func(repo reference.Repository) bool
	// Realms are hosts of token services that may be asked for tokens without credentials although they are at
	// addresses that are not public. Realms are named by registries, and so by anybody: others of that kind are asked
	// only if they are the registry's own host. Default: none.
	Realms []string
	// Observe is told how a registry answered each question, before whoever asked. It must not wait. Default: nobody.
	Observe func(access.Answer)
	// UserAgent is sent with every request. Default "kioo".
	UserAgent string
	// Pseudonym names this mirror in Via. Chains of mirrors find loops by it, so it should differ from node to node.
	// Default "kioo".
	Pseudonym string
	// Timeouts bounds every wait.
	Timeouts Timeouts
	// MaxConcurrent is how many requests one registry gets at a time, unless its Registry says otherwise. A quarter
	// is kept for small requests, so that long blobs can't hold up manifests. Default 32; more is faster on fat links
	// and sooner meets a registry's rate limit.
	MaxConcurrent int
	// Retries says how often and how patiently to try again.
	Retries Retries
	// RedirectsFor is how long a redirect of a blob is followed without asking the registry again, as far as the redirect
	// itself allows it. It is the registry's word that everybody may read there, or the node: it should not count for
	// longer than that word. Default and at most an hour.
	RedirectsFor time.Duration
	// Now is the clock of what is remembered. Default time.Now.
	Now func() time.Time
	// MaxManifestBytes bounds a manifest or an index. Default 4 MiB, as in the distribution specification.
	MaxManifestBytes int64
	// Proxy chooses the proxy of a request. Default http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Registerer takes the metrics. Nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Log gets what no caller would hear of: endpoints that are passed over, resumed blobs.
	Log logr.Logger

	// roundTripper replaces the network in tests.
	roundTripper http.RoundTripper
}

// Timeouts bounds the waits of one request. Each has a deadline of its own, so that a slow but living transfer is
// never cut off and a dead one is noticed in seconds.
type Timeouts struct {
	// Connect bounds dialling and the TLS handshake, each. Default 5 s.
	Connect time.Duration
	// FirstByte bounds the wait for an answer once there is a connection. Default 10 s. Caches that fetch a whole blob
	// before they send any of it need more.
	FirstByte time.Duration
	// Progress is how long a body may stay silent before it counts as broken. Default 10 s.
	Progress time.Duration
	// Queue bounds the wait for one of MaxConcurrent. Default 10 s.
	Queue time.Duration
}

// Retries says how failures are retried: connection errors, 5xx, and 429 as far as Retry-After allows it.
type Retries struct {
	// Attempts is how many times all endpoints are tried. Default 3; 1 never tries again.
	Attempts int
	// Base is the wait before the second attempt; it doubles from there, with jitter. Default 200 ms.
	Base time.Duration
	// Max bounds one wait, Retry-After included: a registry that asks for more fails at once. Default 10 s.
	Max time.Duration
	// Within is the time after which no further attempt begins. Default 15 s.
	Within time.Duration
}

// Origin says for whom a request is made.
type Origin struct {
	// ForwardedFor is the value of X-Forwarded-For: the addresses of the clients, the nearest last. Storage that a
	// registry redirects to doesn't get it.
	ForwardedFor string
	// Via is what the request's own Via said. The client appends itself.
	Via []string
	// Credentials are the client's own. With them, the registry itself alone is asked, its last endpoint, and nothing
	// that belongs to others is used or kept: no tokens, no redirects. Default: the node's own, or none.
	Credentials access.Credentials
	// Claim is what another member says of its client. Registries don't hear of it.
	Claim access.Claim
}

// Client asks registries. It is safe for concurrent use. It starts nothing but the token requests that callers wait
// for; Close ends those.
type Client struct {
	cfg        Config
	making     sync.Mutex // Held while a registry's state is made: two of them would have tokens and limits each.
	registries *lru.Cache[registryKey, *registry]
	targets    *lru.Cache[targetKey, target]
	transports *transports
	creds      credentialStore
	metrics    *metrics

	base   context.Context // Ends at Close; token requests run on it, because several callers share one.
	stop   context.CancelFunc
	mu     sync.Mutex // Guards closed, and that wg does not grow once it is.
	closed bool
	wg     sync.WaitGroup // Counts what background runs.
}

// New makes a client. It reads the credentials file once, to find mistakes early, and asks nobody anything.
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configure upstream client: %w", err)
	}
	creds := credentialStore{path: cfg.Credentials}
	if err := creds.check(); err != nil {
		return nil, fmt.Errorf("configure upstream client: %w", err)
	}
	registries, err := lru.New[registryKey, *registry](maxRegistries)
	if err != nil {
		return nil, fmt.Errorf("make table of registries: %w", err)
	}
	targets, err := lru.New[targetKey, target](maxTargets)
	if err != nil {
		return nil, fmt.Errorf("make table of redirect targets: %w", err)
	}
	transports, err := newTransports(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg:        cfg,
		registries: registries,
		targets:    targets,
		transports: transports,
		creds:      creds,
		metrics:    newMetrics(cfg.Registerer),
	}
	c.base, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Close ends token requests, waits for them, and closes idle connections. Blobs that are still open stay readable as
// far as their current connection goes.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.wg.Wait()
	c.transports.closeIdle()
}

// background runs f on the client's own time, unless the client is closed. Close waits for it.
func (c *Client) background(f func(ctx context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(func() { f(c.base) })
	return true
}

func (c *Config) complete() error {
	if c.Registries == nil {
		c.Registries = func(reference.Repository) Registry { return Registry{} }
	}
	if c.Own == nil {
		c.Own = func(reference.Repository) bool { return true }
	}
	if c.Observe == nil {
		c.Observe = func(access.Answer) {}
	}
	if c.Proxy == nil {
		c.Proxy = http.ProxyFromEnvironment
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.UserAgent == "" {
		c.UserAgent = "kioo"
	}
	if c.Pseudonym == "" {
		c.Pseudonym = "kioo"
	}
	var errs []error
	for _, d := range []struct {
		name  string
		value *time.Duration
		std   time.Duration
	}{
		{"Timeouts.Connect", &c.Timeouts.Connect, 5 * time.Second},
		{"Timeouts.FirstByte", &c.Timeouts.FirstByte, 10 * time.Second},
		{"Timeouts.Progress", &c.Timeouts.Progress, 10 * time.Second},
		{"Timeouts.Queue", &c.Timeouts.Queue, 10 * time.Second},
		{"Retries.Base", &c.Retries.Base, 200 * time.Millisecond},
		{"Retries.Max", &c.Retries.Max, 10 * time.Second},
		{"Retries.Within", &c.Retries.Within, 15 * time.Second},
		{"RedirectsFor", &c.RedirectsFor, longestTarget},
	} {
		errs = append(errs, orDefault(d.name, d.value, d.std))
	}
	c.RedirectsFor = min(c.RedirectsFor, longestTarget)
	errs = append(errs,
		orDefault("MaxConcurrent", &c.MaxConcurrent, 32),
		orDefault("Retries.Attempts", &c.Retries.Attempts, 3),
		orDefault("MaxManifestBytes", &c.MaxManifestBytes, content.MaxManifestBytes))
	return errors.Join(errs...)
}

func orDefault[T int | int64 | time.Duration](name string, value *T, std T) error {
	if *value < 0 {
		return fmt.Errorf("%s is negative: %v", name, *value)
	}
	if *value == 0 {
		*value = std
	}
	return nil
}

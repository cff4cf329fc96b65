// Package registrytest gives tests and benchmarks a real upstream: the CNCF's distribution registry as a process.
//
// It builds and runs the registry, with or without authentication, fills it by real pushes, and puts a proxy before
// it that counts every request and breaks what a test wants broken. It knows nothing of Kioo.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/process"
)

const (
	program = "github.com/distribution/distribution/v3/cmd/registry"
	version = "v3.1.2"

	// buildTime bounds the first build on a machine, which downloads and compiles some hundred modules.
	buildTime = 10 * time.Minute
	startTime = 30 * time.Second
	stopTime  = 5 * time.Second
)

// Auth says how the registry wants its clients to identify themselves.
type Auth int

// What distribution can ask for.
const (
	AuthNone  Auth = iota
	AuthToken      // Bearer tokens of a token server that runs in this process.
	AuthBasic      // Basic credentials from an htpasswd file.
)

func (a Auth) String() string { return [...]string{"none", "token", "basic"}[a] }

// Config says what registry to run. The zero value is one without authentication.
type Config struct {
	Auth Auth
	// Username and Password are the credentials that may do everything. Default: "kioo" and "mirror-mirror".
	Username, Password string
	// Users are further clients, by name: they may pull.
	Users map[string]User
	// Realm is where challenges say that the token server is, for clients that can't reach its own address; its handler
	// is Tokens. Default: that address.
	Realm string
	// Anonymous lets the token server give tokens that may pull to clients without credentials.
	Anonymous bool
	// TokenTTL is how long tokens say that they are good for. Default: 5 minutes. The registry accepts tokens for
	// a minute longer than they say.
	TokenTTL time.Duration
}

// User is somebody who may pull.
type User struct {
	Password string
	// Repositories are those that the token server lets the user pull; Basic credentials are good for all. Default: all.
	Repositories []string
}

func (c Config) withDefaults() Config {
	if c.Username == "" {
		c.Username, c.Password = "kioo", "mirror-mirror"
	}
	if c.TokenTTL <= 0 {
		c.TokenTTL = 5 * time.Minute
	}
	return c
}

// Registry is a running registry with its proxy. Its methods are safe for concurrent use.
type Registry struct {
	*Proxy

	cfg    Config
	dir    string
	proc   *process.Process
	direct string
	tokens *tokenServer
}

// New runs a registry for the length of a test. What it complained of is shown if the test fails.
func New(tb testing.TB, cfg Config) *Registry {
	tb.Helper()
	r, err := Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	tb.Cleanup(func() {
		r.Close()
		if complaints := r.complaints(); tb.Failed() && complaints != "" {
			tb.Logf("the upstream registry complained at last:\n%s", complaints)
		}
	})
	return r
}

// Start runs a registry until Close. ctx bounds only the start.
func Start(ctx context.Context, cfg Config) (*Registry, error) {
	buildCtx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	path, err := process.Install(buildCtx, program, version)
	if err != nil {
		return nil, fmt.Errorf("upstream registry: %w", err)
	}
	dir, err := os.MkdirTemp("", "kioo-registry-")
	if err != nil {
		return nil, fmt.Errorf("upstream registry: %w", err)
	}
	r := &Registry{cfg: cfg.withDefaults(), dir: dir}
	ctx, cancel = context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := r.start(ctx, path); err != nil {
		r.Close()
		return nil, fmt.Errorf("upstream registry: %w", err)
	}
	return r, nil
}

// listening is how the registry says which free port it got.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

func (r *Registry) start(ctx context.Context, path string) error {
	if r.cfg.Auth == AuthToken {
		var err error
		if r.tokens, err = newTokenServer(r.cfg); err != nil {
			return fmt.Errorf("token server: %w", err)
		}
	}
	file, err := r.configure()
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	r.proc, err = process.Start(process.Config{
		Path: path,
		Args: []string{"serve", file},
		// Some dozens of requests: it says much about each.
		KeepLog: 64 << 10,
		// Nobody collects its traces, and waiting for a collector delays its end.
		Env: []string{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none"},
	})
	if err != nil {
		return err
	}
	match, err := r.proc.WaitLog(ctx, listening)
	if err != nil {
		return err
	}
	r.direct = match[1]
	if err := r.proc.WaitReady(ctx, func() bool { return answers(ctx, r.direct) }); err != nil {
		return err
	}
	r.Proxy, err = NewProxy("http://" + r.direct)
	return err
}

func answers(ctx context.Context, host string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
}

// complaints are the latest lines of the registry's log without those on requests that went well, which are many and
// long: they would bury what the test itself says.
func (r *Registry) complaints() string {
	var b strings.Builder
	for line := range strings.Lines(r.proc.Log()) {
		if !strings.Contains(line, "level=info") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// DirectHost is the address of the registry itself: nothing is counted there and nothing can be broken.
func (r *Registry) DirectHost() string { return r.direct }

// Credentials are those that may do everything. Empty without authentication.
func (r *Registry) Credentials() (username, password string) {
	if r.cfg.Auth == AuthNone {
		return "", ""
	}
	return r.cfg.Username, r.cfg.Password
}

// TokenServer gives out tokens; nil without them.
func (r *Registry) TokenServer() http.Handler {
	if r.tokens == nil {
		return nil
	}
	return r.tokens.server.Config.Handler
}

// Tokens is how many tokens the token server has given out.
func (r *Registry) Tokens() int {
	if r.tokens == nil {
		return 0
	}
	return int(r.tokens.issued.Load())
}

// Given are the tokens that the token server has given out.
func (r *Registry) Given() []string {
	if r.tokens == nil {
		return nil
	}
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	return slices.Clone(r.tokens.given)
}

// Storage is the directory in which the registry keeps its files.
func (r *Registry) Storage() string { return filepath.Join(r.dir, "storage") }

// Close ends the registry and deletes what it stored. Closing twice does nothing more.
func (r *Registry) Close() {
	if r.Proxy != nil {
		r.Proxy.Close()
	}
	if r.proc != nil {
		if err := r.proc.Stop(stopTime); err != nil {
			r.proc.Kill() // It keeps nothing worth a graceful end, and its status says how it was stopped.
		}
	}
	if r.tokens != nil {
		r.tokens.close()
	}
	_ = os.RemoveAll(r.dir) // A directory left in the temporary directory harms nobody.
}

// DockerConfig writes a Docker config.json with the registry's credentials for the given host into dir, and returns
// the file.
func (r *Registry) DockerConfig(dir, host string) (string, error) {
	username, password := r.Credentials()
	if username == "" {
		return "", errors.New("registry without authentication has no credentials")
	}
	return writeDockerConfig(dir, host, username, password)
}

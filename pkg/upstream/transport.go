package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/kioo-dev/kioo/pkg/reach"
)

const (
	// maxTransports bounds how many sets of TLS files have connections of their own. They come from configuration.
	maxTransports = 256
	// Idle connections are kept for the next layers of a pull, not for the next pull.
	maxIdle        = 128
	maxIdlePerHost = 16
	idleTimeout    = 60 * time.Second
	// maxHeaderBytes bounds the headers of an answer.
	maxHeaderBytes = 64 << 10
)

var errFirstByte = errors.New("no answer in time")

// tlsFiles are what a connection depends on; registries with the same ones share connections.
type tlsFiles struct {
	ca, cert, key string
	outside       bool // Connects to public addresses alone, and without a proxy.
}

func (f tlsFiles) config() (*tls.Config, error) {
	cfg, err := httpclient.TLS(f.ca)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	if f.cert == "" && f.key == "" {
		return cfg, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate %q and key %q: %w", f.cert, f.key, err)
		}
		return &pair, nil
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	_, err = load()
	return cfg, err
}

// transports hands out pools of connections. Safe for concurrent use.
type transports struct {
	cfg   Config
	mu    sync.Mutex // Held over finding and making, so that two registries don't make a pool each.
	cache *lru.Cache[tlsFiles, *http.Transport]
	// limited are those whose connections go only so far into a network.
	limited *lru.Cache[guardedKey, *http.Transport]
}

func newTransports(cfg Config) (*transports, error) {
	cache, err := lru.NewWithEvict(maxTransports, func(_ tlsFiles, t *http.Transport) { t.CloseIdleConnections() })
	if err != nil {
		return nil, fmt.Errorf("make table of transports: %w", err)
	}
	limited, err := lru.NewWithEvict(maxTransports, func(_ guardedKey, t *http.Transport) { t.CloseIdleConnections() })
	if err != nil {
		return nil, fmt.Errorf("make table of transports: %w", err)
	}
	return &transports{cfg: cfg, cache: cache, limited: limited}, nil
}

func (t *transports) get(files tlsFiles) (http.RoundTripper, error) {
	if t.cfg.roundTripper != nil {
		return t.cfg.roundTripper, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr, ok := t.cache.Get(files); ok {
		return tr, nil
	}
	tlsConfig, err := files.config()
	if err != nil {
		return nil, err
	}
	// HTTP/1.1 alone: every registry speaks it, and the ranges of a blob that are fetched in parallel, or again after a
	// stall, get connections of their own instead of sharing the fate and the window of one.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	dialer, proxy := &net.Dialer{Timeout: t.cfg.Timeouts.Connect}, t.cfg.Proxy
	if files.outside {
		dialer.Control, proxy = publicOnly, nil
	}
	tr := &http.Transport{
		Proxy:                  proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    t.cfg.Timeouts.Connect,
		DisableCompression:     true, // Digests and ranges are of the bytes as they are stored.
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  t.cfg.Timeouts.FirstByte,
		MaxResponseHeaderBytes: maxHeaderBytes,
		Protocols:              &protocols,
	}
	t.cache.Add(files, tr)
	return tr, nil
}

// publicOnly refuses to connect to addresses that are not public. It sees what names have resolved to.
func publicOnly(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !isPublic(to.Addr()) {
		return errInside
	}
	return nil
}

func isPublic(ip netip.Addr) bool { return reach.Of(ip) == reach.Public }

func (t *transports) closeIdle() {
	for _, tr := range append(t.cache.Values(), t.limited.Values()...) {
		tr.CloseIdleConnections()
	}
}

// roundTrip sends one request and waits for the head of its answer, for Connect and FirstByte together at most. The
// answer's body fails with httpclient.ErrStalled when it stays silent for Progress, and must be closed.
func (c *Client) roundTrip(
	ctx context.Context, rt http.RoundTripper, req *http.Request, host string,
) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.cfg.Timeouts.Connect+c.cfg.Timeouts.FirstByte, func() { cancel(errFirstByte) })
	resp, err := rt.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		c.metrics.answered(host, 0)
		return nil, err
	}
	c.metrics.answered(host, resp.StatusCode)
	resp.Body = httpclient.NewBody(ctx, cancel, resp.Body, c.cfg.Timeouts.Progress, c.metrics.received(host))
	return resp, nil
}

// maxDrain is how much of a body that nobody wants is read so that its connection can be used again.
const maxDrain = 64 << 10

func drain(resp *http.Response) {
	if resp.Request == nil || resp.Request.Method != http.MethodHead {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // Only the connection is at stake.
	}
	_ = resp.Body.Close()
}

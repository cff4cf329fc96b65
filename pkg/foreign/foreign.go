// Package foreign gets layers from where their manifest says they are, instead of from a registry.
//
// Manifests are written by strangers, and this node can reach what strangers can't. So only what the policy allows is
// asked, redirects are checked as the first url was, addresses are judged when they are dialled, and nothing is shown
// to the server: no credentials, no cookies, nobody's address. Who puts the bytes together checks the digest.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reach"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const maxRedirects = 5

var (
	errOtherSize = errors.New("size is not what the manifest says")
	errRange     = errors.New("answer is not the range that was asked for")
)

// Layer is what a manifest says of a foreign layer.
type Layer struct {
	Digest    digest.Digest
	Size      int64
	MediaType string
	URLs      []string
}

// Config is what a client needs.
type Config struct {
	// Policy says which urls may be asked, and which addresses.
	Policy policy.Foreign
	// UserAgent is sent with every request.
	UserAgent string
	// Connect bounds dialling and the TLS handshake, each. 5 seconds by default.
	Connect time.Duration
	// FirstByte bounds the wait for an answer once there is a connection. 10 seconds by default.
	FirstByte time.Duration
	// Progress is how long a body may stay silent. 10 seconds by default.
	Progress time.Duration

	Registerer prometheus.Registerer
}

// Client asks the hosts of urls. It is safe for concurrent use.
type Client struct {
	cfg      Config
	http     *http.Client
	requests *prometheus.CounterVec
	bytes    prometheus.Counter
}

// New makes a client. No proxy stands before it: behind one, addresses could not be judged.
func New(cfg Config) *Client {
	for _, d := range []struct {
		value *time.Duration
		std   time.Duration
	}{{&cfg.Connect, 5 * time.Second}, {&cfg.FirstByte, 10 * time.Second}, {&cfg.Progress, 10 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.std
		}
	}
	factory := promauto.With(cfg.Registerer)
	c := &Client{
		cfg: cfg,
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_foreign_requests_total", Help: "Requests for foreign layers to the hosts of their urls, by result: ok, refused (by the rules), failed.",
		}, []string{"result"}),
		bytes: factory.NewCounter(prometheus.CounterOpts{
			Name: "kioo_foreign_bytes_total", Help: "Bytes of foreign layers received from the hosts of their urls.",
		}),
	}
	dialer := &net.Dialer{Timeout: cfg.Connect, Control: reach.Control(reach.Public, cfg.Policy.Networks)}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: cfg.Connect, ResponseHeaderTimeout: cfg.FirstByte,
			DisableCompression: true, MaxIdleConns: 16, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: c.checkRedirect,
	}
	return c
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	req.Header.Del("Referer") // Urls may hold signatures.
	if err := c.cfg.Policy.Check(req.URL); err != nil {
		return &refused{fmt.Errorf("redirect: %w", err)}
	}
	return nil
}

// refused is what the rules don't allow.
type refused struct{ err error }

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }

// Open starts to read a layer at off, up to end, or to its end if end is negative, from the first of its urls that has
// it. The bytes are not verified.
func (c *Client) Open(ctx context.Context, layer Layer, urls []*url.URL, off, end int64) (*Stream, error) {
	var failed error
	for _, u := range urls {
		s, err := c.open(ctx, layer, u, off, end)
		if err == nil {
			c.requests.WithLabelValues("ok").Inc()
			return s, nil
		}
		var r *refused
		if errors.As(err, &r) || errors.Is(err, reach.ErrRefused) {
			c.requests.WithLabelValues("refused").Inc()
		} else {
			c.requests.WithLabelValues("failed").Inc()
		}
		failed = errors.Join(failed, fmt.Errorf("foreign layer %s from %s: %w", layer.Digest, u.Host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

func (c *Client) open(ctx context.Context, layer Layer, u *url.URL, off, end int64) (*Stream, error) {
	if err := c.cfg.Policy.Check(u); err != nil { // Whoever asked has done so too. It is cheap.
		return nil, &refused{err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, errors.New("url can't be asked")
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if want := httpclient.Range(off, end); want != "" {
		req.Header.Set("Range", want)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		cancel(nil)
		var whole *url.Error // Its text has the url, with whatever signature it holds.
		if errors.As(err, &whole) {
			err = whole.Err
		}
		return nil, plain(err)
	}
	s := &Stream{Body: httpclient.NewBody(ctx, cancel, resp.Body, c.cfg.Progress, c.bytes), size: layer.Size, ranged: true}
	if err := s.accept(resp, off, end); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// plain leaves addresses out of what clients read: who is refused need not know what there is inside.
func plain(err error) error {
	if errors.Is(err, reach.ErrRefused) {
		return &refused{errors.New("its address is not public (see foreignLayers.networks)")}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		if addr, perr := netip.ParseAddrPort(op.Addr.String()); perr == nil {
			return errors.New(strings.ReplaceAll(err.Error(), addr.String(), "its address"))
		}
	}
	return err
}

// Stream is a layer's bytes. How many of them are right is for who reads to know. It belongs to one goroutine.
type Stream struct {
	*httpclient.Body
	size   int64
	ranged bool
}

// accept takes an answer that is the range that was asked for, or the whole, of which it skips the beginning.
func (s *Stream) accept(resp *http.Response, off, end int64) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		r, ok := httpclient.ParseContentRange(resp.Header.Get("Content-Range"))
		if !ok || r.First != off || end >= 0 && r.Last >= end {
			return errRange
		}
		if r.Total != s.size {
			return errOtherSize
		}
		return nil
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != s.size {
			return errOtherSize
		}
		s.ranged = off == 0 && end < 0 && resp.Header.Get("Accept-Ranges") != "none"
		_, err := io.CopyN(io.Discard, s, off)
		return err
	}
	return fmt.Errorf("status %d", resp.StatusCode)
}

// Size implements flight.Stream.
func (s *Stream) Size() int64 { return s.size }

// Ranged implements flight.Stream.
func (s *Stream) Ranged() bool { return s.ranged }

package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/kioo-dev/kioo/pkg/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
)

// What a member's answer means for who asked.
var (
	// ErrNotHeld says that the member does not have it.
	ErrNotHeld = errors.New("member does not hold it")
	// ErrBusy says that the member has no upload slot free.
	ErrBusy = errors.New("member is busy")
	// ErrBeyond says that the blob which the member has ends before what was asked for.
	ErrBeyond = errors.New("the range is outside of what the member has")
	// ErrDead says that the member could not be reached, or stopped answering.
	ErrDead = errors.New("member does not answer")
)

// Busy says that a member has no upload slot free, and matches ErrBusy.
type Busy struct {
	// Retry is how long the member wants to be left alone; 0 where it does not say.
	Retry time.Duration
}

func (b *Busy) Error() string { return fmt.Sprintf("%v for %v", ErrBusy, b.Retry) }

// Unwrap gives ErrBusy.
func (b *Busy) Unwrap() error { return ErrBusy }

// RetryHeader is Retry-After in milliseconds: members are busy for less than the second that Retry-After can say.
const RetryHeader = "Kioo-Retry-After-Ms"

// maxRetry bounds what is believed of a member's hint.
const maxRetry = 30 * time.Second

func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseUint(h.Get(RetryHeader), 10, 31); err == nil {
		return min(time.Duration(ms)*time.Millisecond, maxRetry)
	}
	s, _ := strconv.ParseUint(h.Get("Retry-After"), 10, 31) // Nothing sensible is no hint.
	return min(time.Duration(s)*time.Second, maxRetry)
}

// ClientConfig is what a client needs.
type ClientConfig struct {
	Credentials *Credentials
	// Connect bounds dialling and, again, the handshake. Members are near: 1 second by default.
	Connect time.Duration
	// FirstByte bounds the wait for an answer. 2 seconds by default.
	FirstByte time.Duration
	// Progress is how long a body may stand still. 2 seconds by default: the rest then comes from somewhere else.
	Progress time.Duration
	// Member and Zone say who asks. Members share their certificates, so that this is for scheduling alone.
	Member, Zone string
	// BytesPerSecond caps what is read of all blobs together; 0 is no cap.
	BytesPerSecond int64
	// Violations notes what members say that they can't mean. Nil notes nothing.
	Violations *Violations
	// Now is the clock. time.Now by default.
	Now func() time.Time

	Registerer prometheus.Registerer
}

// Client asks other members for content. It is safe for concurrent use.
type Client struct {
	http     *http.Client
	dialer   *dialer
	cfg      ClientConfig
	limit    *rate.Limiter // Nil without a cap.
	received prometheus.Counter
	claim    access.Claim // See For.
}

// Who asks is in these headers of every request.
const (
	MemberHeader = "Kioo-Member"
	ZoneHeader   = "Kioo-Zone"
)

// PieceHeader is on requests for a swarm's pieces. They have upload slots of their own.
const PieceHeader = "Kioo-Piece"

const pieceWanted = "1"

// NewClient makes a client.
func NewClient(cfg ClientConfig) *Client {
	for _, d := range []struct {
		value *time.Duration
		std   time.Duration
	}{{&cfg.Connect, time.Second}, {&cfg.FirstByte, 2 * time.Second}, {&cfg.Progress, 2 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.std
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	dialer := &dialer{
		net: net.Dialer{Timeout: cfg.Connect, KeepAlive: 15 * time.Second}, tls: cfg.Credentials.Client(),
	}
	c := &Client{
		cfg:    cfg,
		dialer: dialer,
		http: &http.Client{
			Transport: &http.Transport{
				DialTLSContext:        dialer.secure,
				ResponseHeaderTimeout: cfg.FirstByte,
				// HTTP/1.1 alone: a connection for each transfer, so that one never waits for another.
				TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
				DisableCompression:  true,
				MaxIdleConns:        256,
				MaxIdleConnsPerHost: 8,
				IdleConnTimeout:     time.Minute,
				ReadBufferSize:      16 << 10, // A TLS record: larger ones would have bytes copied once more.
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		received: promauto.With(cfg.Registerer).NewCounter(prometheus.CounterOpts{
			Name: "kioo_peer_downloaded_bytes_total", Help: "Bytes received from other members.",
		}),
	}
	if cfg.BytesPerSecond > 0 {
		c.limit = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), int(max(maxRead, min(cfg.BytesPerSecond/10, 1<<30))))
	}
	return c
}

// maxRead is how many bytes are read at once under a bandwidth cap.
const maxRead = 64 << 10

// Violations is where it is noted what members say that they can't mean.
func (c *Client) Violations() *Violations {
	if c == nil {
		return nil
	}
	return c.cfg.Violations
}

// Zone is where this member is.
func (c *Client) Zone() string { return c.cfg.Zone }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Manifest gets a manifest by digest and verifies it.
func (c *Client) Manifest(ctx context.Context, addrs []string, ref reference.Reference) (ocispec.Descriptor, []byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := c.do(ctx, http.MethodGet, addrs, ref, "manifests", nil)
	if err != nil {
		cancel(nil)
		return ocispec.Descriptor{}, nil, err
	}
	in := c.stream(ctx, cancel, resp, resp.ContentLength, ref.String()+" from "+addrs[0])
	defer in.Close()
	kind := resp.Header.Get("Content-Type")
	if err := CheckMediaType(kind); err != nil {
		return ocispec.Descriptor{}, nil, c.lied(addrs, ref, err)
	}
	if resp.ContentLength > content.MaxManifestBytes {
		return ocispec.Descriptor{}, nil, c.lied(addrs, ref, Violate(BadSize, "a manifest of %d bytes", resp.ContentLength))
	}
	body, err := io.ReadAll(io.LimitReader(in, content.MaxManifestBytes+1))
	switch {
	case err != nil:
		return ocispec.Descriptor{}, nil, err
	case len(body) > content.MaxManifestBytes:
		return ocispec.Descriptor{}, nil, c.lied(addrs, ref, Violate(BadSize, "a manifest of more than %d bytes", content.MaxManifestBytes))
	case ref.Digest.Algorithm().FromBytes(body) != ref.Digest:
		return ocispec.Descriptor{}, nil, c.lied(addrs, ref, fmt.Errorf("%w: %w", ErrWrongBytes, Violate(BadBytes, "they have another digest")))
	}
	return ocispec.Descriptor{MediaType: kind, Digest: ref.Digest, Size: int64(len(body))}, body, nil
}

// ErrWrongBytes says that a member sent something else than what the digest names.
var ErrWrongBytes = errors.New("member sent wrong bytes")

// Blob starts to read a blob of a member at off, up to end, or to the blob's end if end is negative. The bytes are
// not verified.
func (c *Client) Blob(ctx context.Context, addrs []string, ref reference.Reference, off, end int64) (*Stream, error) {
	return c.blob(ctx, addrs, ref, off, end, http.Header{})
}

// Piece is Blob for one piece [start, end) of a swarm.
func (c *Client) Piece(ctx context.Context, addrs []string, ref reference.Reference, start, end int64) (*Stream, error) {
	return c.blob(ctx, addrs, ref, start, end, http.Header{PieceHeader: {pieceWanted}})
}

func (c *Client) blob(
	ctx context.Context, addrs []string, ref reference.Reference, off, end int64, header http.Header,
) (*Stream, error) {
	if r := httpclient.Range(off, end); r != "" {
		header.Set("Range", r)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := c.do(ctx, http.MethodGet, addrs, ref, "blobs", header)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	size, err := wholeSize(resp, off, end)
	if err != nil {
		resp.Body.Close()
		cancel(nil)
		return nil, c.lied(addrs, ref, err)
	}
	return c.stream(ctx, cancel, resp, size, ref.String()+" from "+addrs[0]), nil
}

// stream makes a body one that can't stand still.
func (c *Client) stream(ctx context.Context, cancel context.CancelCauseFunc, resp *http.Response, size int64, what string) *Stream {
	return &Stream{
		Body: httpclient.NewBody(ctx, cancel, resp.Body, c.cfg.Progress, c.received),
		size: size, what: what, ctx: ctx, limit: c.limit,
	}
}

// do asks a member for something below a repository. An answer other than success is an error.
func (c *Client) do(
	ctx context.Context, method string, addrs []string, ref reference.Reference, kind string, header http.Header,
) (*http.Response, error) {
	u := url.URL{
		Scheme: "https", Host: addrs[0],
		Path:     "/v2/" + ref.Path + "/" + kind + "/" + ref.Object(),
		RawQuery: url.Values{"ns": {ref.Registry}}.Encode(),
	}
	resp, err := c.send(ctx, method, addrs, u.String(), header, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", addrs[0], ref, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resp, nil
	case http.StatusNotFound:
		err = ErrNotHeld
	case http.StatusRequestedRangeNotSatisfiable:
		err = ErrBeyond
	case http.StatusTooManyRequests:
		err = &Busy{Retry: retryAfter(resp.Header)}
	default:
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	drain(resp.Body)
	return nil, fmt.Errorf("ask %s for %s: %w", addrs[0], ref, err)
}

// Call sends a member one of the requests beside the registry's API, at a path below /kioo/. Every answer is given as
// it is, whatever its status; an error says that there is none, and wraps ErrDead if that is the member's doing. The
// caller closes the body, which has no deadline but ctx's.
func (c *Client) Call(ctx context.Context, method string, addrs []string, path string, body []byte) (*http.Response, error) {
	u := url.URL{Scheme: "https", Host: addrs[0], Path: path}
	resp, err := c.send(ctx, method, addrs, u.String(), nil, body)
	if err != nil {
		return nil, fmt.Errorf("call %s%s: %w", addrs[0], path, err)
	}
	return resp, nil
}

// Listen asks a member, at such a path, to tell what it has of a blob that is said to have that many bytes.
func (c *Client) Listen(ctx context.Context, addrs []string, path string, size int64) (*http.Response, error) {
	u := url.URL{Scheme: "https", Host: addrs[0], Path: path}
	resp, err := c.send(ctx, http.MethodGet, addrs, u.String(), http.Header{SizeHeader: {strconv.FormatInt(size, 10)}}, nil)
	if err != nil {
		return nil, fmt.Errorf("listen to %s: %w", addrs[0], err)
	}
	return resp, nil
}

// send sends a request, with a header if that is not nil, and waits for the head of its answer.
func (c *Client) send(
	ctx context.Context, method string, addrs []string, url string, header http.Header, body []byte,
) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(c.dialer.others(ctx, addrs), method, url, in)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if c.cfg.Member != "" {
		req.Header.Set(MemberHeader, c.cfg.Member)
		req.Header.Set(ZoneHeader, c.cfg.Zone)
	}
	if c.claim != "" {
		req.Header.Set(ClaimHeader, string(c.claim))
	}
	resp, err := c.http.Do(req)
	switch {
	case err == nil:
		return resp, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, err // It is this node that can't.
	}
	return nil, fmt.Errorf("%w: %w", ErrDead, err)
}

// drain ends an answer that is not wanted so that its connection can be used again. A body that does not come at once
// is not worth it.
func drain(body io.ReadCloser) {
	give := time.AfterFunc(drainWithin, func() { body.Close() })
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	give.Stop()
	body.Close()
}

// drainWithin is how long an error's body may take.
const drainWithin = 100 * time.Millisecond

// Stream is a blob's bytes from a member. A member that stands still fails the read with ErrDead. It belongs to one
// goroutine.
type Stream struct {
	*httpclient.Body
	size  int64
	what  string
	ctx   context.Context
	limit *rate.Limiter
	owed  int // Bytes of the last read, for which the next one waits.
}

// Size implements flight.Stream.
func (s *Stream) Size() int64 { return s.size }

// Ranged implements flight.Stream. Members always do ranges.
func (s *Stream) Ranged() bool { return true }

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	if s.limit != nil {
		if err := s.limit.WaitN(s.ctx, s.owed); err != nil {
			return 0, fmt.Errorf("wait for bandwidth: %w", err)
		}
		p = p[:min(len(p), maxRead)]
	}
	n, err := s.Body.Read(p)
	s.owed = n
	if err == nil || err == io.EOF {
		return n, err
	}
	if cause := context.Cause(s.ctx); cause != nil && !errors.Is(cause, httpclient.ErrStalled) {
		return n, cause // It is not the member's doing.
	}
	return n, fmt.Errorf("get %s: %w: %w", s.what, ErrDead, err)
}

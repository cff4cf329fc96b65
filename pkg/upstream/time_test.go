package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// network is an http.RoundTripper for tests in which time is not real.
type network func(*http.Request) (*http.Response, error)

func (n network) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

func answer(r *http.Request, status int, body string, header ...string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

// virtual runs a test inside a bubble, with the default configuration and a network of its own.
func virtual(t *testing.T, endpoints []Endpoint, n network, run func(t *testing.T, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{
			Registries:   func(reference.Repository) Registry { return Registry{Endpoints: endpoints, MaxConcurrent: 4} },
			roundTripper: n,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		run(t, c)
	})
}

func TestRetries(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	refused := func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }
	untrusted := func(*http.Request) (*http.Response, error) {
		return nil, &tls.CertificateVerificationError{Err: io.EOF}
	}
	silent := func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }
	with := func(status int, header ...string) network {
		return func(r *http.Request) (*http.Response, error) { return answer(r, status, "", header...), nil }
	}
	asks := func(d time.Duration) network {
		return func(r *http.Request) (*http.Response, error) { return answer(r, 429, "", "Retry-After", date(d)), nil }
	}
	good := func(r *http.Request) (*http.Response, error) { return answer(r, 200, indexBody), nil }
	tests := map[string]struct {
		answers     []network // The last one repeats.
		deadline    time.Duration
		requests    int
		err         error
		atLeast, in time.Duration
		retryAfter  time.Duration
	}{
		"good":                   {answers: []network{good}, requests: 1},
		"503 twice":              {answers: []network{with(503), with(503), good}, requests: 3, atLeast: 300 * time.Millisecond, in: time.Second},
		"503 for good":           {answers: []network{with(503)}, requests: 3, err: ErrUnavailable, in: time.Second},
		"refused once":           {answers: []network{refused, good}, requests: 2, atLeast: 100 * time.Millisecond, in: time.Second},
		"refused for good":       {answers: []network{refused}, requests: 3, err: ErrUnavailable, in: time.Second},
		"untrusted":              {answers: []network{untrusted}, requests: 1, err: ErrUnavailable},
		"silent":                 {answers: []network{silent}, requests: 1, err: errFirstByte, atLeast: 15 * time.Second, in: 15 * time.Second},
		"silent, with deadline":  {answers: []network{silent}, deadline: time.Second, requests: 1, err: context.DeadlineExceeded, in: time.Second},
		"501":                    {answers: []network{with(501)}, requests: 1, err: ErrUnavailable},
		"508":                    {answers: []network{with(508)}, requests: 1, err: ErrLoop},
		"400":                    {answers: []network{with(400)}, requests: 1, err: errAny},
		"404":                    {answers: []network{with(404)}, requests: 1, err: ErrNotFound},
		"401":                    {answers: []network{with(401)}, requests: 1, err: ErrDenied},
		"403":                    {answers: []network{with(403)}, requests: 1, err: ErrDenied},
		"429":                    {answers: []network{with(429), good}, requests: 2, in: time.Second},
		"429, 3 seconds":         {answers: []network{with(429, "Retry-After", "3"), good}, requests: 2, atLeast: 3 * time.Second, in: 4 * time.Second},
		"429, a date":            {answers: []network{asks(3 * time.Second), good}, requests: 2, atLeast: 2 * time.Second, in: 4 * time.Second},
		"429, a date gone by":    {answers: []network{asks(-time.Hour), good}, requests: 2, in: time.Second},
		"429, too long":          {answers: []network{with(429, "Retry-After", "60"), good}, requests: 1, err: ErrRateLimited, retryAfter: time.Minute},
		"429, past the deadline": {answers: []network{with(429, "Retry-After", "3"), good}, deadline: 2 * time.Second, requests: 1, err: ErrRateLimited, retryAfter: 3 * time.Second},
		"429, nonsense":          {answers: []network{with(429, "Retry-After", "soon"), good}, requests: 2, in: time.Second},
		"429, for ever":          {answers: []network{with(429, "Retry-After", "99999999999999")}, requests: 1, err: ErrRateLimited, retryAfter: 365 * 24 * time.Hour},
		"503, 3 seconds":         {answers: []network{with(503, "Retry-After", "3"), good}, requests: 2, atLeast: 3 * time.Second, in: 4 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			requests := 0
			virtual(t, []Endpoint{{URL: "https://registry.test"}}, func(r *http.Request) (*http.Response, error) {
				requests++
				return tt.answers[min(requests, len(tt.answers))-1](r)
			}, func(t *testing.T, c *Client) {
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err := c.Manifest(ctx, tagged, Origin{})
				took := time.Since(start)
				var e *Error
				switch {
				case tt.err == errAny && err != nil:
				case !errors.Is(err, tt.err):
					t.Errorf("got error %v, want %v", err, tt.err)
				case errors.As(err, &e) && e.RetryAfter != tt.retryAfter:
					t.Errorf("error asks to wait %v, want %v", e.RetryAfter, tt.retryAfter)
				}
				if requests != tt.requests || took < tt.atLeast || took > tt.in {
					t.Errorf("%d requests in %v, want %d in %v to %v", requests, took, tt.requests, tt.atLeast, tt.in)
				}
			})
		})
	}
}

var errAny = errors.New("any error")

// A body that is silent for too long is broken; a reader that takes its time is not.
func TestStall(t *testing.T) {
	data := randomBytes(1000)
	var requests []string
	virtual(t, []Endpoint{{URL: "https://registry.test"}}, func(r *http.Request) (*http.Response, error) {
		requests = append(requests, r.Header.Get("Range"))
		if len(requests) > 1 {
			return answer(r, 206, string(data[100:]), "Content-Range", "bytes 100-999/1000"), nil
		}
		in, out := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = in.CloseWithError(r.Context().Err()) })
		go func() { _, _ = out.Write(data[:100]) }()
		resp := answer(r, 200, "")
		resp.Body, resp.ContentLength = in, 1000
		return resp, nil
	}, func(t *testing.T, c *Client) {
		b, err := c.Blob(t.Context(), repo, digest.FromBytes(data), 0, -1, Origin{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for range 10 {
			time.Sleep(time.Minute)
			if _, err := io.ReadFull(b, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		if _, err := io.ReadFull(b, make([]byte, 900)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("went on after %v, want 10 s", took)
		}
		if len(requests) != 2 || requests[1] != "bytes=100-" {
			t.Errorf("asked for %q", requests)
		}
	})
}

// A dead endpoint costs its timeout once, not once per request, and is tried again later.
func TestDeadEndpoint(t *testing.T) {
	asked := 0
	virtual(t, []Endpoint{{URL: "https://cache.test"}, {URL: "https://registry.test"}}, func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "cache.test" {
			asked++
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return answer(r, 200, indexBody), nil
	}, func(t *testing.T, c *Client) {
		for i, want := range []struct {
			asked int
			took  time.Duration
		}{{1, 15 * time.Second}, {1, 0}, {1, 0}, {2, 15 * time.Second}} {
			if i == 3 {
				time.Sleep(coolDown)
			}
			start := time.Now()
			if _, err := c.Manifest(t.Context(), tagged, Origin{}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); asked != want.asked || took != want.took {
				t.Errorf("request %d: cache asked %d times, took %v; want %d, %v", i, asked, took, want.asked, want.took)
			}
		}
	})
}

// Remembered redirects are used as long as they hold, and as long as the registry's word that they stand for counts.
func TestRedirectExpires(t *testing.T) {
	for _, tt := range []struct {
		name   string
		counts time.Duration
		want   []int // How often the registry was asked by each of the requests, which are 20 s apart.
	}{
		{"as it says", longestTarget, []int{1, 1, 1, 2}},
		{"no longer than the word", 30 * time.Second, []int{1, 1, 2, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			virtual(t, []Endpoint{{URL: "https://registry.test"}}, func(r *http.Request) (*http.Response, error) {
				if r.URL.Host == "registry.test" {
					asked++
					return answer(r, 307, "", "Location", "https://storage.test/", "Cache-Control", "max-age=60"), nil
				}
				return answer(r, 200, "data"), nil
			}, func(t *testing.T, c *Client) {
				c.cfg.RedirectsFor = tt.counts
				for i, want := range tt.want {
					b, err := c.Blob(t.Context(), repo, digest.FromString("data"), 0, -1, Origin{})
					if err != nil {
						t.Fatal(err)
					}
					_ = b.Close()
					if asked != want {
						t.Errorf("request %d: registry asked %d times, want %d", i, asked, want)
					}
					time.Sleep(20 * time.Second)
				}
			})
		})
	}
}

// Blobs wait their turn and not for ever; manifests pass by.
func TestConcurrencyIsLimited(t *testing.T) {
	running, most := 0, 0
	virtual(t, []Endpoint{{URL: "https://registry.test"}}, func(r *http.Request) (*http.Response, error) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			running++
			most = max(most, running)
		}
		return answer(r, 200, indexBody), nil
	}, func(t *testing.T, c *Client) {
		open := func(ctx context.Context) (*Blob, error) {
			return c.Blob(ctx, repo, digest.FromString("data"), 0, -1, Origin{})
		}
		var blobs []*Blob
		for range 3 {
			b, err := open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			blobs = append(blobs, b)
		}
		start := time.Now()
		if _, err := open(t.Context()); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrUnavailable) || time.Since(start) != 10*time.Second {
			t.Errorf("got error %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := open(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v", err)
		}
		if _, err := c.Manifest(t.Context(), tagged, Origin{}); err != nil {
			t.Errorf("manifest: %v", err)
		}
		_ = blobs[0].Close()
		_ = blobs[0].Close() // Closing twice gives back one place.
		b, err := open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("got error %v", err)
		}
		for _, b := range append(blobs, b) {
			_ = b.Close()
		}
		if most != 4 {
			t.Errorf("%d requests for blobs, want 4", most)
		}
	})
}

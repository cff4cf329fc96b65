package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

var tagged = reference.Reference{Repository: repo, Tag: "v1"}

// Storage learns nothing but what is wanted.
func TestRedirectShowsNoCredentials(t *testing.T) {
	data := randomBytes(1000)
	storage := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	ts := &tokens{expires: 60, needs: "ann:s3cret", data: data}
	ts.server = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		switch {
		case strings.HasPrefix(r.Header.Get("Authorization"), "Bearer token-") && !strings.HasPrefix(r.URL.Path, "/inside"):
			http.Redirect(w, r, "/inside", http.StatusTemporaryRedirect)
		case strings.HasPrefix(r.Header.Get("Authorization"), "Bearer token-"):
			http.Redirect(w, r, storage.URL+"/data?signature=abc", http.StatusFound)
		default:
			ts.handle(w, r)
		}
	})
	cfg := fast(at(ts.server)...)
	cfg.Credentials = dockerConfig(t, ts.host(), "ann:s3cret")
	c := client(t, cfg)
	origin := Origin{ForwardedFor: "10.1.2.3, 127.0.0.1", Via: []string{"1.1 other", "1.1 another"}}
	b, err := c.Blob(t.Context(), repo, digest.FromBytes(data), 10, 20, origin)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()

	stored := storage.seen()[0].Header
	for name, want := range map[string]string{
		"Authorization": "", "X-Forwarded-For": "", "Cookie": "", "Referer": "",
		"Range": "bytes=10-19", "User-Agent": "kioo/test", "Accept-Encoding": "identity",
		"Via": "1.1 other, 1.1 another, 1.1 node-1",
	} {
		if got := stored.Get(name); got != want {
			t.Errorf("storage got %s %q, want %q", name, got, want)
		}
	}
	var inside *http.Request
	for _, r := range ts.seen() {
		if r.URL.Path == "/inside" {
			inside = r
		} else if r.URL.Path != "/token" && r.Header.Get("X-Forwarded-For") != origin.ForwardedFor {
			t.Errorf("registry got X-Forwarded-For %q", r.Header.Get("X-Forwarded-For"))
		}
	}
	if inside == nil || inside.Header.Get("Authorization") != "Bearer token-1" {
		t.Errorf("redirect inside the registry was not authorised: %v", inside)
	}
}

func TestRedirectIsRemembered(t *testing.T) {
	data := randomBytes(1000)
	var broken bool
	storage := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if broken {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		serveBlob(w, r, data)
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if broken {
			serveBlob(w, r, data)
			return
		}
		http.Redirect(w, r, storage.URL+"/data", http.StatusTemporaryRedirect)
	})
	c := client(t, fast(at(s)...))
	get := func(r reference.Repository, registry, stored int) {
		t.Helper()
		b, err := c.Blob(t.Context(), r, digest.FromBytes(data), 0, -1, Origin{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if len(s.seen()) != registry || len(storage.seen()) != stored {
			t.Errorf("registry asked %d times and storage %d times, want %d and %d", len(s.seen()), len(storage.seen()), registry, stored)
		}
	}
	get(repo, 1, 1)
	get(repo, 1, 2)
	get(reference.Repository{Registry: registryName, Path: "team/other"}, 2, 3) // Who may read one may not read all.
	c.Forget(repo, digest.FromBytes(data))
	get(repo, 3, 4)
	broken = true
	get(repo, 4, 5) // The old target says no, so the registry is asked.
	get(repo, 5, 5) // And the target is forgotten.
}

func TestRedirectRefused(t *testing.T) {
	plain := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		_, _ = w.Write([]byte(indexBody))
	})
	s := newServer(func(w http.ResponseWriter, r *http.Request, _ int) {
		http.Redirect(w, r, plain.URL+"/?signature=s3cret", http.StatusTemporaryRedirect)
	})
	s.StartTLS()
	t.Cleanup(s.Close)
	c := client(t, fast(Endpoint{URL: s.URL, CAFile: caFile(t, s)}))
	_, err := c.Manifest(t.Context(), tagged, Origin{})
	if !errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "s3cret") || len(plain.seen()) != 0 {
		t.Errorf("by tag: got error %v after %d requests", err, len(plain.seen()))
	}
	byDigest := reference.Reference{Repository: repo, Digest: digest.FromString(indexBody)}
	if _, err := c.Manifest(t.Context(), byDigest, Origin{}); err != nil {
		t.Errorf("by digest: %v", err)
	}

	endless := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
		http.Redirect(w, r, fmt.Sprintf("/%d?signature=s3cret", n), http.StatusTemporaryRedirect)
	})
	_, err = client(t, fast(at(endless)...)).Manifest(t.Context(), tagged, Origin{})
	if !errors.Is(err, ErrInvalid) || len(endless.seen()) != maxRedirects+1 {
		t.Errorf("endless: got error %v after %d requests", err, len(endless.seen()))
	}
}

// What storage says when it fails is not repeated, and neither is its address.
func TestRedirectErrorsTellNothing(t *testing.T) {
	body := `{"errors":[{"code":"SECRET","message":"s3cret"}]}`
	storage := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n > 0 {
			reset(w)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(body))
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		http.Redirect(w, r, strings.Replace(storage.URL, "://", "://ann:s3cret@", 1)+"/?signature=s3cret", http.StatusFound)
	})
	c := client(t, fast(at(s)...))
	for _, want := range []error{ErrDenied, ErrUnavailable} {
		_, _, err := readBlob(t, c, nil, 0, -1)
		if !errors.Is(err, want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got error %v, want %v", err, want)
		}
	}
	if auth := storage.seen()[0].Header.Get("Authorization"); auth != "" {
		t.Errorf("storage got Authorization %q", auth)
	}
}

func TestRedirectUntil(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		query, cache string
		want         time.Duration
	}{
		"says nothing":       {want: defaultTarget},
		"S3":                 {query: "X-Amz-Date=20260501T115000Z&X-Amz-Expires=1200", want: 10*time.Minute - targetMargin},
		"S3, long":           {query: "X-Amz-Date=20260501T115000Z&X-Amz-Expires=604800", want: time.Hour - targetMargin},
		"S3, over":           {query: "X-Amz-Date=20260501T110000Z&X-Amz-Expires=1200", want: -40*time.Minute - targetMargin},
		"S3, unreadable":     {query: "X-Amz-Date=yesterday&X-Amz-Expires=1200", want: -1},
		"S3, half":           {query: "X-Amz-Date=20260501T115000Z", want: -1},
		"Google":             {query: "X-Goog-Date=20260501T120000Z&X-Goog-Expires=60", want: time.Minute - targetMargin},
		"CloudFront":         {query: fmt.Sprint("Expires=", now.Add(time.Minute).Unix()), want: time.Minute - targetMargin},
		"CloudFront, absurd": {query: "Expires=99999999999999999999", want: -1},
		"Azure":              {query: "se=2026-05-01T12:05:00Z", want: 5*time.Minute - targetMargin},
		"Azure, unreadable":  {query: "se=tomorrow", want: -1},
		"max-age":            {cache: "private, max-age=120", want: 2*time.Minute - targetMargin},
		"no-store":           {cache: "no-store, max-age=120", want: -1},
		"the shorter one":    {query: "X-Amz-Date=20260501T115000Z&X-Amz-Expires=1200", cache: "max-age=60", want: time.Minute - targetMargin},
	}
	for name, tt := range tests {
		header := http.Header{}
		if tt.cache != "" {
			header.Set("Cache-Control", tt.cache)
		}
		got := redirectUntil(&url.URL{RawQuery: tt.query}, header, now).Sub(now)
		if tt.want == -1 && got > 0 || tt.want != -1 && got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"https://a.test", "https://A.test:443/x", true}, {"http://a.test:80", "http://a.test", true},
		{"https://a.test", "http://a.test", false}, {"https://a.test", "https://a.test:444", false},
		{"https://a.test", "https://b.a.test", false}, {"http://a.test:443", "https://a.test", false},
	} {
		a, _ := url.Parse(tt.a)
		b, _ := url.Parse(tt.b)
		if sameOrigin(a, b) != tt.want || sameOrigin(b, a) != tt.want {
			t.Errorf("%s and %s: want %v", tt.a, tt.b, tt.want)
		}
	}
}

// A blob that breaks off at storage is asked for at the registry again, which may know better storage.
func TestRedirectBreaksMidBlob(t *testing.T) {
	data := randomBytes(size)
	bad := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { breakAfter(1000, byReset)(w, r, data) })
	good := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	s := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
		http.Redirect(w, r, []string{bad.URL, good.URL}[min(n, 1)], http.StatusTemporaryRedirect)
	})
	got, _, err := readBlob(t, client(t, fast(at(s)...)), data, 0, -1)
	if err != nil || !bytes.Equal(got, data) || len(s.seen()) != 2 || len(bad.seen()) != 1 {
		t.Errorf("got %d bytes, error %v, after %d requests to the registry", len(got), err, len(s.seen()))
	}
}

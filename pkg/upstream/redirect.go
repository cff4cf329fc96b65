package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	maxRedirects = 5
	// A redirect that does not say how long it holds is remembered for defaultTarget, none for longer than
	// longestTarget, and each is dropped targetMargin before it ends, because clocks differ.
	defaultTarget = 30 * time.Second
	longestTarget = time.Hour
	targetMargin  = 10 * time.Second
)

var (
	errTooManyRedirects = errors.New("too many redirects")
	errDowngrade        = errors.New("redirect from TLS to plain HTTP for something that no digest protects")
)

// targetKey says what a redirect was for. The repository belongs to it: who may read one repository may not read
// another that holds the same blob.
type targetKey struct {
	endpoint   *endpoint
	repository string
	digest     digest.Digest
}

// target is where a blob was found, away from its registry.
type target struct {
	url   *url.URL
	until time.Time
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// location reads where a redirect leads.
func location(from *url.URL, resp *http.Response, verified bool) (*url.URL, error) {
	to, err := from.Parse(resp.Header.Get("Location"))
	switch {
	case err != nil || resp.Header.Get("Location") == "":
		return nil, errors.New("redirect without a usable Location") // Not err: it would repeat the URL.
	case to.Scheme != "http" && to.Scheme != "https" || to.Host == "":
		return nil, fmt.Errorf("redirect to scheme %q, host %q", clean(to.Scheme), clean(to.Host))
	case from.Scheme == "https" && to.Scheme == "http" && !verified:
		return nil, errDowngrade
	}
	to.Fragment = ""
	return to, nil
}

// sameOrigin compares scheme, host and port: credentials never leave the origin they are for.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// redirectUntil says until when a redirect holds: what its caching headers and the target's own signature allow,
// whichever ends first.
func redirectUntil(to *url.URL, header http.Header, now time.Time) time.Time {
	until := now.Add(longestTarget)
	said := false
	limit := func(t time.Time, ok bool) {
		if ok {
			said = true
			if t.Before(until) {
				until = t
			}
		}
	}
	query := to.Query()
	limit(signedUntil(query, "X-Amz-Date", "X-Amz-Expires"))
	limit(signedUntil(query, "X-Goog-Date", "X-Goog-Expires"))
	limit(unixTime(query.Get("Expires")))
	limit(azureTime(query.Get("se")))
	limit(cacheUntil(header.Values("Cache-Control"), now))
	if !said {
		return now.Add(defaultTarget)
	}
	return until.Add(-targetMargin)
}

// signedUntil reads the pair of parameters that S3 and Google Cloud Storage sign.
func signedUntil(query url.Values, date, expires string) (time.Time, bool) {
	if !query.Has(date) && !query.Has(expires) {
		return time.Time{}, false
	}
	from, err := time.Parse("20060102T150405Z", query.Get(date))
	seconds, err2 := strconv.ParseInt(query.Get(expires), 10, 32)
	if err != nil || err2 != nil {
		return time.Time{}, true // It ends at a time that can't be read: don't remember it.
	}
	return from.Add(time.Duration(seconds) * time.Second), true
}

func unixTime(value string) (time.Time, bool) {
	if value == "" {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, true
	}
	return time.Unix(seconds, 0), true
}

func azureTime(value string) (time.Time, bool) {
	if value == "" {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, true
	}
	return t, true
}

func cacheUntil(values []string, now time.Time) (time.Time, bool) {
	for directive := range strings.SplitSeq(strings.ToLower(strings.Join(values, ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store", "no-cache":
			return time.Time{}, true
		case "max-age":
			seconds, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32)
			if err != nil || seconds < 0 {
				return time.Time{}, true
			}
			return now.Add(time.Duration(seconds) * time.Second), true
		}
	}
	return time.Time{}, false
}

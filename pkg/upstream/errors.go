package upstream

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/kioo-dev/kioo/pkg/reach"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// What a failure means for who asked; Error matches one of them at most.
var (
	ErrNotFound    = errors.New("not found upstream")
	ErrDenied      = errors.New("denied by upstream")          // 401 and 403, also for want of credentials
	ErrRateLimited = errors.New("upstream limits the rate")    // 429
	ErrUnavailable = errors.New("upstream is unavailable")     // no connection, no answer in time, 5xx
	ErrTooLarge    = errors.New("upstream sent too much")      // a manifest or a list over its limit
	ErrLoop        = errors.New("mirrors ask each other")      // 508
	ErrInvalid     = errors.New("upstream's answer is broken") // wrong digest, range or length; no manifest
)

// Error is a failed request. Its text is safe to log and to show to clients: no credentials, no tokens, no queries.
type Error struct {
	// Op is what was asked: "get manifest".
	Op         string
	Repository reference.Repository
	// Object is the tag or digest; empty for lists of tags.
	Object string
	// Endpoint is the host that the failure comes from; empty where none was asked.
	Endpoint string
	// Status is the HTTP status, 0 where there was no answer.
	Status int
	// Code and Message are what the registry's error body says, bounded and printable.
	Code, Message string
	// RetryAfter is how long the registry asks to be left alone; 0 where it doesn't say.
	RetryAfter time.Duration
	// Err is the cause, nil where an answer's status is all there is.
	Err error
	// Challenge is the WWW-Authenticate that the registry itself refused with. It is not part of the text.
	Challenge []string
	// Earlier holds what the endpoints said that were asked before Endpoint. It is not unwrapped: the last word counts.
	Earlier []error

	kind  error // One of the sentinels, or nil.
	retry bool  // The same request may work a little later.
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Op, e.Repository)
	if e.Object != "" {
		sep := ":"
		if strings.Contains(e.Object, ":") {
			sep = "@"
		}
		b.WriteString(sep + e.Object)
	}
	if e.Endpoint != "" {
		b.WriteString(" from " + e.Endpoint)
	}
	if e.Status != 0 {
		b.WriteString(": " + strings.TrimSpace(strconv.Itoa(e.Status)+" "+http.StatusText(e.Status)))
	}
	if e.Code != "" || e.Message != "" {
		b.WriteString(": " + strings.Trim(e.Code+": "+e.Message, ": "))
	}
	if e.RetryAfter != 0 {
		fmt.Fprintf(&b, " (asks to wait %v)", e.RetryAfter)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	for _, err := range e.Earlier {
		b.WriteString("; before: " + err.Error())
	}
	return b.String()
}

// Is matches the sentinel that the failure belongs to.
func (e *Error) Is(target error) bool { return e.kind != nil && target == e.kind }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func (r *request) newError(ep *endpoint) *Error {
	e := &Error{Op: r.op, Repository: r.repo, Object: r.object}
	if ep != nil {
		e.Endpoint = ep.url.Host
	}
	return e
}

// refused makes the error of an answer with an unwanted status. It reads the answer's body and closes it. Only what
// the endpoint itself says is repeated: a redirect can lead to services that are none of the client's business.
func (r *request) refused(ep *endpoint, resp *http.Response, now time.Time) *Error {
	defer resp.Body.Close()
	e := r.newError(ep)
	e.setStatus(resp.StatusCode)
	e.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), now)
	if resp.Request != nil && sameOrigin(resp.Request.URL, ep.url) {
		said := resp.Request.Header.Get("Authorization")
		if e.Challenge = challengeOf(resp); repeats(strings.Join(e.Challenge, " "), said) {
			e.Challenge = nil
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes)) // Half a body may still say why.
		if !repeats(string(body), said) {
			e.Code, e.Message = parseErrorBody(body)
		}
	}
	return e
}

func (e *Error) setStatus(status int) {
	e.Status = status
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.kind = ErrDenied
	case status == http.StatusNotFound:
		e.kind = ErrNotFound
	case status == http.StatusTooManyRequests:
		e.kind, e.retry = ErrRateLimited, true
	case status == http.StatusLoopDetected:
		e.kind = ErrLoop
	case status == http.StatusNotImplemented, status == http.StatusHTTPVersionNotSupported:
		e.kind = ErrUnavailable
	case status >= 500:
		e.kind, e.retry = ErrUnavailable, true
	}
}

// failed makes the error of a request that got no usable answer. kind is ErrUnavailable, or ErrInvalid where what
// came was broken.
func (r *request) failed(ep *endpoint, kind, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	e = r.newError(ep)
	e.kind, e.retry, e.Err = kind, kind == ErrUnavailable, redact(err)
	var auth *authError
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &auth):
		if status := auth.status(); status != 0 {
			e.setStatus(status)
		}
		if e.kind == ErrDenied {
			e.Challenge = auth.challenge
		}
	case errors.As(err, &cert), errors.As(err, &dns) && dns.IsNotFound, errors.Is(err, errClosed), errors.Is(err, reach.ErrRefused):
		e.retry = false
	case errors.Is(err, context.Canceled):
		e.kind, e.retry = nil, false // Who asked went away: that says nothing about the registry.
	}
	return e
}

// repeats tells whether a text has something of the credentials that it was answered to. Some registries say which
// token it was that they refused.
func repeats(text, authorization string) bool {
	_, secret, _ := strings.Cut(authorization, " ")
	secrets := []string{secret}
	if plain, err := base64.StdEncoding.DecodeString(secret); err == nil {
		_, password, _ := strings.Cut(string(plain), ":")
		secrets = append(secrets, password)
	}
	for part := range strings.SplitSeq(secret, ".") { // Of a JSON web token each part tells something.
		secrets = append(secrets, part)
	}
	return slices.ContainsFunc(secrets, func(s string) bool { return len(s) > 3 && strings.Contains(text, s) })
}

// challengeOf gives what a 401 asks for, unless it is longer than anything that clients have use for.
func challengeOf(resp *http.Response) []string {
	challenge := resp.Header.Values("WWW-Authenticate")
	if resp.StatusCode != http.StatusUnauthorized || len(strings.Join(challenge, "")) > maxChallenge {
		return nil
	}
	return challenge
}

const (
	maxChallenge    = 8 << 10
	maxErrorBytes   = 64 << 10
	maxErrorCode    = 64
	maxErrorMessage = 512
)

// parseErrorBody reads the first error of a body as the distribution specification has them. Other bodies say nothing.
func parseErrorBody(body []byte) (code, message string) {
	var parsed struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(body, &parsed); err != nil || len(parsed.Errors) == 0 {
		return "", ""
	}
	return cut(clean(parsed.Errors[0].Code), maxErrorCode), cut(clean(parsed.Errors[0].Message), maxErrorMessage)
}

// parseRetryAfter reads a Retry-After header, seconds or a date. What is past or unreadable is 0.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		const most = 365 * 24 * 3600
		return time.Duration(min(max(seconds, 0), most)) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}

// redacted is an error whose text is safe, with the original behind it for errors.Is.
type redacted struct {
	text string
	err  error
}

func (e *redacted) Error() string { return e.text }

func (e *redacted) Is(target error) bool { return errors.Is(e.err, target) }

func (e *redacted) As(target any) bool { return errors.As(e.err, target) }

func redact(err error) error {
	text := err.Error()
	var failed *url.Error
	var said remoteerrors.ErrUnexpectedStatus
	switch {
	case errors.As(err, &said):
		text = "token service says " + said.Status
	case errors.As(err, &failed):
		text = "token service: " + failed.Err.Error()
	}
	if errors.Is(err, io.EOF) { // It must not stay: to a reader it would mean that all went well.
		return &redacted{text: "connection closed without an answer", err: io.ErrUnexpectedEOF}
	}
	return &redacted{text: cut(clean(text), maxErrorMessage), err: err}
}

// secrets finds what URLs may hold that is nobody's business: user names with passwords, and queries, which are the
// signatures of storage URLs.
var secrets = regexp.MustCompile(`(://)[^/@\s"']+@|(\?)[^\s"']+`)

// clean makes outside text printable and takes secrets out.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	return secrets.ReplaceAllString(s, "${1}${2}…")
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

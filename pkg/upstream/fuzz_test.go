package upstream

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever a registry with TLS says in its challenge, its credentials go over TLS or nowhere, and nothing panics.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{
		`Bearer realm="https://auth.test/token",service="r",scope="repository:a:pull"`, `Bearer realm="http://auth.test/token"`,
		`Basic realm="x"`, `Bearer`, `Bearer realm=`, `bearer realm="https://ann:pw@auth.test/?a=b",error="invalid_token"`,
		`Digest nonce="x"`, `Bearer realm="\`, `Bearer realm="file:///etc/passwd"`, `Bearer realm="//auth.test"`, `basic realm="\"`,
	} {
		f.Add(seed)
	}
	config := filepath.Join(f.TempDir(), "config.json")
	if err := os.WriteFile(config, []byte(`{"auths":{"registry.test":{"auth":"YW5uOnMzY3JldA=="}}}`), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, challenge string) {
		c, err := New(Config{
			Credentials: config,
			Retries:     Retries{Attempts: 1},
			roundTripper: network(func(r *http.Request) (*http.Response, error) {
				body := ""
				if r.Body != nil {
					b, _ := io.ReadAll(r.Body)
					body = string(b)
				}
				if secret := r.Header.Get("Authorization") + body; r.URL.Scheme != "https" && secret != "" {
					t.Errorf("%q to %s", secret, r.URL)
				}
				if r.URL.Host == "registry.test" {
					return answer(r, http.StatusUnauthorized, "", "WWW-Authenticate", challenge), nil
				}
				return answer(r, http.StatusOK, `{"token":"t"}`), nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Manifest(t.Context(), tagged, Origin{}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got error %v", err)
		}
	})
}

func FuzzLink(f *testing.F) {
	f.Add(`</v2/a/tags/list?last=b>; rel="next"`)
	f.Add(`<?a>; rel=prev, <?b>; title="x, \"y\""; rel="next"`)
	base, err := url.Parse("https://r.test/v2/a/tags/list?n=2")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if u := nextLink([]string{value}, base); u != nil && (!sameOrigin(u, base) || u.Path != base.Path) {
			t.Errorf("leads to %s", u)
		}
	})
}

func FuzzAnswerHeaders(f *testing.F) {
	f.Add("120", "max-age=5, no-store", "X-Amz-Date=20260501T115000Z&X-Amz-Expires=1200", `{"errors":[{"code":"A","message":"b"}]}`)
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, retry, cache, query, body string) {
		if d := parseRetryAfter(retry, now); d < 0 {
			t.Errorf("Retry-After %q: %v", retry, d)
		}
		if until := redirectUntil(&url.URL{RawQuery: query}, http.Header{"Cache-Control": {cache}}, now); until.After(now.Add(longestTarget)) {
			t.Errorf("query %q, Cache-Control %q: %v", query, cache, until)
		}
		code, message := parseErrorBody([]byte(body))
		if len(code) > maxErrorCode+3 || len(message) > maxErrorMessage+3 || !utf8.ValidString(code+message) {
			t.Errorf("body %q: %q, %q", body, code, message)
		}
	})
}

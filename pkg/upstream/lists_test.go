package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestTags(t *testing.T) {
	tests := map[string]struct {
		n          int
		last       string
		body, link string
		asked      string
		want       TagList
		err        error
	}{
		"all":             {n: -1, body: `{"tags":["a","b"]}`, asked: "", want: TagList{Tags: []string{"a", "b"}}},
		"none":            {n: -1, body: `{"tags":null}`, want: TagList{}},
		"first page":      {n: 2, body: `{"tags":["a","b"]}`, link: `</v2/team/app/tags/list?n=2&last=b>; rel="next"`, asked: "n=2", want: TagList{Tags: []string{"a", "b"}, Next: &TagPage{N: 2, Last: "b"}}},
		"next page":       {n: 2, last: "b", body: `{"tags":["c"]}`, asked: "last=b&n=2", want: TagList{Tags: []string{"c"}}},
		"relative link":   {n: 2, body: `{"tags":["a","b"]}`, link: `<list?last=b>; rel=next`, asked: "n=2", want: TagList{Tags: []string{"a", "b"}, Next: &TagPage{N: 2, Last: "b"}}},
		"own page token":  {n: 2, body: `{"tags":["a","b"]}`, link: `</v2/team/app/tags/list?n=50&next_page=xyz>; rel="next"`, asked: "n=2", want: TagList{Tags: []string{"a", "b"}, Next: &TagPage{N: 50, Last: "b"}}},
		"link elsewhere":  {n: 2, body: `{"tags":["a"]}`, link: `<https://evil.test/v2/team/app/tags/list?last=a>; rel="next"`, asked: "n=2", want: TagList{Tags: []string{"a"}}},
		"link in circles": {n: 2, last: "b", body: `{"tags":["a","b"]}`, link: `<list?last=b>; rel=next`, asked: "last=b&n=2", want: TagList{Tags: []string{"a", "b"}}},
		"no JSON":         {n: -1, body: `<html>`, err: ErrInvalid},
		"endless":         {n: -1, body: `{"tags":["` + strings.Repeat("x", maxTagsBytes) + `"]}`, err: ErrTooLarge},
	}
	for name, tt := range tests {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			if tt.link != "" {
				w.Header().Set("Link", tt.link)
			}
			_, _ = io.WriteString(w, tt.body)
		})
		got, err := client(t, fast(at(s)...)).Tags(t.Context(), repo, tt.n, tt.last, Origin{})
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: got error %v, want %v", name, err, tt.err)
			continue
		}
		if !slices.Equal(got.Tags, tt.want.Tags) || fmt.Sprint(got.Next == nil) != fmt.Sprint(tt.want.Next == nil) ||
			got.Next != nil && *got.Next != *tt.want.Next {
			t.Errorf("%s: got %+v, next %+v", name, got, got.Next)
		}
		if r := s.seen()[0]; tt.err == nil && (r.URL.Path != "/v2/team/app/tags/list" || r.URL.RawQuery != tt.asked) {
			t.Errorf("%s: asked for %s", name, r.URL)
		}
	}
}

var subject = digest.FromString("subject")

func referrers(names ...string) string {
	index := ocispec.Index{Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	for _, name := range names {
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(name), Size: 1, ArtifactType: name,
		})
	}
	body, err := json.Marshal(index)
	if err != nil {
		panic(err)
	}
	return string(body)
}

func TestReferrers(t *testing.T) {
	const api = "/v2/team/app/referrers/"
	tag := "/v2/team/app/manifests/sha256-" + subject.Encoded()
	say := func(w http.ResponseWriter, body string) { _, _ = io.WriteString(w, body) }
	tests := map[string]struct {
		artifactType string
		handle       func(w http.ResponseWriter, r *http.Request, n int)
		want         []string
		filtered     bool
		requests     int
		err          error
	}{
		"some": {handle: func(w http.ResponseWriter, _ *http.Request, _ int) { say(w, referrers("a", "b")) }, want: []string{"a", "b"}, requests: 1},
		"none": {handle: func(w http.ResponseWriter, _ *http.Request, _ int) { say(w, referrers()) }, requests: 1},
		"filtered": {artifactType: "a", handle: func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("OCI-Filters-Applied", "artifactType")
			say(w, referrers(r.URL.Query().Get("artifactType")))
		}, want: []string{"a"}, filtered: true, requests: 1},
		"pages": {artifactType: "t", handle: func(w http.ResponseWriter, r *http.Request, n int) {
			if n < 2 {
				w.Header().Set("Link", fmt.Sprintf(`<%s%s?artifactType=t&page=%d>; rel="next"`, api, subject, n+1))
			}
			if page := r.URL.Query().Get("page"); n > 0 && page != fmt.Sprint(n) || r.URL.Query().Get("artifactType") != "t" {
				w.WriteHeader(400)
			}
			say(w, referrers(fmt.Sprint(n)))
		}, want: []string{"0", "1", "2"}, requests: 3},
		"endless pages": {handle: func(w http.ResponseWriter, _ *http.Request, n int) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next"`, api, subject, n))
			say(w, referrers("x"))
		}, requests: maxReferrerPages, err: ErrTooLarge},
		"a page that leads to itself": {handle: func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s>; rel="next"`, api, subject))
			say(w, referrers("x"))
		}, want: []string{"x"}, requests: 1},
		"no API, a tag": {handle: func(w http.ResponseWriter, r *http.Request, _ int) {
			if r.URL.Path != tag {
				w.WriteHeader(404)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			say(w, referrers("a"))
		}, want: []string{"a"}, requests: 2},
		"no API, no tag": {handle: func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(404) }, requests: 2},
		"no API, but 400": {handle: func(w http.ResponseWriter, r *http.Request, _ int) {
			if r.URL.Path == tag {
				w.WriteHeader(404)
				return
			}
			w.WriteHeader(400)
			say(w, `{"errors":[{"code":"UNSUPPORTED"}]}`)
		}, requests: 2},
		"no API, tag is something else": {handle: func(w http.ResponseWriter, r *http.Request, _ int) {
			if r.URL.Path != tag {
				w.WriteHeader(405)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			say(w, `{}`)
		}, requests: 2, err: ErrInvalid},
		"denied":  {handle: func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(403) }, requests: 1, err: ErrDenied},
		"no JSON": {handle: func(w http.ResponseWriter, _ *http.Request, _ int) { say(w, "[]") }, requests: 1, err: ErrInvalid},
	}
	for name, tt := range tests {
		s := serve(t, tt.handle)
		got, err := client(t, fast(at(s)...)).Referrers(t.Context(), repo, subject, tt.artifactType, Origin{})
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: got error %v, want %v", name, err, tt.err)
		}
		var types []string
		for _, m := range got.Index.Manifests {
			types = append(types, m.ArtifactType)
		}
		if !slices.Equal(types, tt.want) || got.Filtered != tt.filtered || err == nil && got.Index.Manifests == nil {
			t.Errorf("%s: got %v, filtered %v", name, types, got.Filtered)
		}
		if n := len(s.seen()); n != tt.requests {
			t.Errorf("%s: %d requests, want %d", name, n, tt.requests)
		}
	}
}

func TestReferrersTag(t *testing.T) {
	long := digest.SHA512.FromString("x")
	if got := referrersTag(long); got != "sha512-"+long.Encoded()[:64] {
		t.Errorf("got %s", got)
	}
	if _, err := reference.ParseTag(referrersTag(long)); err != nil {
		t.Error(err)
	}
}

func TestNextLink(t *testing.T) {
	base, err := url.Parse("https://r.test/v2/a/tags/list?n=2")
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		``:                                     "",
		`</v2/a/tags/list?last=b>; rel="next"`: "last=b",
		`<?last=b>;rel=next`:                   "last=b",
		`<?last=b> ; REL="prev next"`:          "last=b",
		`<?last=a>; rel=prev, <?last=b>; title="x, \"y\"; rel=next"; rel="next"`: "last=b",
		`<?last=a>; title="rel=next"`:                                            "",
		`<?last=b>; rel`:                                                         "",
		`<?last=b>`:                                                              "",
		`<?last=b; rel=next`:                                                     "",
		`<//evil.test/v2/a/tags/list?last=b>; rel=next`:                          "",
		`<http://r.test/v2/a/tags/list?last=b>; rel=next`:                        "",
		`</v2/b/tags/list?last=b>; rel=next`:                                     "",
		`<?last=b>; rel="next`:                                                   "last=b",
		`<?last=` + strings.Repeat("b", 9000) + `>; rel=next`:                    "",
	} {
		got := ""
		if u := nextLink([]string{value}, base); u != nil {
			got = u.RawQuery
		}
		if got != want {
			t.Errorf("%.80s: got %q, want %q", value, got, want)
		}
	}
}

package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const indexBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

func TestManifest(t *testing.T) {
	const (
		page       = "<html>Please log in</html>"
		bareIndex  = `{"schemaVersion":2,"manifests":[]}`
		bareImage  = `{"schemaVersion":2,"config":{},"layers":[]}`
		eitherKind = `{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`
	)
	var (
		dgst    = digest.FromString(indexBody)
		dgst512 = digest.SHA512.FromString(indexBody)
		none    digest.Digest
		other   = digest.FromString("other").String()
		index   = ocispec.MediaTypeImageIndex
		image   = ocispec.MediaTypeImageManifest
	)
	tests := map[string]struct {
		want              digest.Digest // Empty: by tag.
		contentType, body string
		says              string // Docker-Content-Digest
		err               error
		mediaType         string
		digest            digest.Digest
	}{
		"by digest":                  {want: dgst, contentType: index, body: indexBody, mediaType: index, digest: dgst},
		"by sha512":                  {want: dgst512, contentType: index, body: indexBody, mediaType: index, digest: dgst512},
		"by digest, wrong":           {want: dgst, contentType: index, body: indexBody + " ", err: ErrInvalid},
		"by digest, header differs":  {want: dgst, contentType: index, body: indexBody, says: other, mediaType: index, digest: dgst},
		"by tag":                     {contentType: index, body: indexBody, says: dgst.String(), mediaType: index, digest: dgst},
		"by tag, sha512":             {contentType: index, body: indexBody, says: dgst512.String(), mediaType: index, digest: dgst512},
		"by tag, header differs":     {contentType: index, body: indexBody, says: other, err: ErrInvalid},
		"by tag, no header":          {contentType: index, body: indexBody, mediaType: index, digest: dgst},
		"by tag, header is nonsense": {contentType: index, body: indexBody, says: "md5:abc", mediaType: index, digest: dgst},
		"type with parameter":        {contentType: index + "; charset=utf-8", body: indexBody, mediaType: index, digest: dgst},
		"type from body":             {contentType: "text/plain", body: indexBody, mediaType: index, digest: dgst},
		"type of an index":           {contentType: "application/json", body: bareIndex, mediaType: index, digest: digest.FromString(bareIndex)},
		"type of an image":           {body: bareImage, mediaType: image, digest: digest.FromString(bareImage)},
		"type unknown here":          {contentType: "a/b", body: `{"a":1}`, mediaType: "a/b", digest: digest.FromString(`{"a":1}`)},
		"Docker's type":              {contentType: content.MediaTypeDockerManifest, body: bareImage, mediaType: content.MediaTypeDockerManifest},
		"space before":               {contentType: index, body: "\n" + indexBody, mediaType: index, digest: digest.FromString("\n" + indexBody)},
		"either kind":                {contentType: image, body: eitherKind, err: ErrInvalid},
		"either kind, no type":       {body: eitherKind, err: ErrInvalid},
		"an index as an image":       {contentType: image, body: bareIndex, err: ErrInvalid},
		"an image as an index":       {contentType: content.MediaTypeDockerManifestList, body: bareImage, err: ErrInvalid},
		"neither kind":               {contentType: image, body: `{}`, err: ErrInvalid},
		"no type at all":             {body: `{}`, err: ErrInvalid},
		"a page of a proxy":          {contentType: "text/html", body: page, err: ErrInvalid},
		"a page that claims a lot":   {contentType: index, body: page, err: ErrInvalid},
		"empty":                      {contentType: index, err: ErrInvalid},
		"nested without end":         {contentType: index, body: strings.Repeat("[", 100_000), err: ErrInvalid},
		"encoded":                    {contentType: index, body: "encoded", err: ErrInvalid},
		"as large as allowed":        {contentType: index, body: indexBody + strings.Repeat(" ", 4<<20-len(indexBody)), mediaType: index, digest: none},
		"too large":                  {contentType: index, body: indexBody + strings.Repeat(" ", 4<<20+1-len(indexBody)), err: ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, chunked := range []bool{false, true} {
				s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
					w.Header()["Content-Type"] = []string{tt.contentType}
					if tt.says != "" {
						w.Header().Set("Docker-Content-Digest", tt.says)
					}
					if tt.body == "encoded" {
						w.Header().Set("Content-Encoding", "gzip")
					}
					if chunked {
						flush(w, nil)
					} else {
						w.Header().Set("Content-Length", strconv.Itoa(len(tt.body)))
					}
					_, _ = io.WriteString(w, tt.body)
				})
				ref := tagged
				if tt.want != "" {
					ref = reference.Reference{Repository: repo, Digest: tt.want}
				}
				m, err := client(t, fast(at(s)...)).Manifest(t.Context(), ref, Origin{})
				if !errors.Is(err, tt.err) {
					t.Fatalf("got error %v, want %v", err, tt.err)
				}
				if tt.err != nil {
					continue
				}
				d := m.Descriptor
				if string(m.Body) != tt.body || d.Size != int64(len(tt.body)) || d.MediaType != tt.mediaType ||
					(tt.digest != "" && d.Digest != tt.digest) {
					t.Errorf("got %+v with %d bytes", d, len(m.Body))
				}
				if accept := s.seen()[0].Header.Get("Accept"); accept != acceptManifests {
					t.Errorf("accepts %q", accept)
				}
			}
		})
	}
}

func TestHead(t *testing.T) {
	dgst := digest.FromString(indexBody)
	good := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: dgst, Size: int64(len(indexBody))}
	tests := map[string]struct {
		known  digest.Digest
		head   func(w http.ResponseWriter, r *http.Request)
		gets   int
		want   ocispec.Descriptor
		err    error
		byHash bool
	}{
		"good":                  {head: func(w http.ResponseWriter, _ *http.Request) {}, want: good},
		"by digest":             {head: func(w http.ResponseWriter, _ *http.Request) {}, want: good, byHash: true},
		"changed":               {known: digest.FromString("old"), head: func(w http.ResponseWriter, _ *http.Request) {}, want: good},
		"not modified":          {known: dgst, head: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, want: ocispec.Descriptor{Digest: dgst}},
		"not modified, unasked": {head: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, err: errAny},
		"405":                   {head: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(405) }, gets: 1, want: good},
		"501":                   {head: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(501) }, gets: 1, want: good},
		"no digest":             {head: func(w http.ResponseWriter, _ *http.Request) { w.Header().Del("Docker-Content-Digest") }, gets: 1, want: good},
		"digest is nonsense":    {head: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Docker-Content-Digest", "x") }, gets: 1, want: good},
		"digest is another": {head: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
		}, gets: 1, want: good, byHash: true},
		"no length":               {head: func(w http.ResponseWriter, _ *http.Request) { w.Header().Del("Content-Length") }, gets: 1, want: good},
		"no type":                 {head: func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil }, gets: 1, want: good},
		"404":                     {head: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, err: ErrNotFound},
		"429":                     {head: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "99"); w.WriteHeader(429) }, err: ErrRateLimited},
		"larger than is accepted": {head: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9999999") }, err: ErrTooLarge},
	}
	for name, tt := range tests {
		gets := 0
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Header().Set("Content-Length", strconv.Itoa(len(indexBody)))
			w.Header().Set("Docker-Content-Digest", dgst.String())
			if r.Method == http.MethodGet {
				gets++
				_, _ = io.WriteString(w, indexBody)
				return
			}
			if want := r.Header.Get("If-None-Match"); tt.known != "" && want != `"`+tt.known.String()+`"` {
				t.Errorf("%s: asked with If-None-Match %q", name, want)
			}
			tt.head(w, r)
		})
		ref := tagged
		if tt.byHash {
			ref = reference.Reference{Repository: repo, Digest: dgst}
		}
		m, err := client(t, fast(at(s)...)).Head(t.Context(), ref, tt.known, Origin{})
		got := m.Descriptor
		if tt.err == errAny && err != nil {
			continue
		}
		if !errors.Is(err, tt.err) || got.Digest != tt.want.Digest || got.Size != tt.want.Size || got.MediaType != tt.want.MediaType {
			t.Errorf("%s: got %+v, error %v", name, got, err)
		}
		if gets != tt.gets {
			t.Errorf("%s: %d GETs, want %d", name, gets, tt.gets)
		}
	}
}

func TestStatBlob(t *testing.T) {
	data := randomBytes(1000)
	for name, head := range map[string]func(w http.ResponseWriter, r *http.Request){
		"good":      func(w http.ResponseWriter, r *http.Request) { serveBlob(w, r, data) },
		"405":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(405) },
		"no length": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Transfer-Encoding", "chunked") },
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			if r.Method == http.MethodHead {
				head(w, r)
				return
			}
			serveBlob(w, r, data)
		})
		c := client(t, fast(at(s)...))
		if d, err := c.StatBlob(t.Context(), repo, digest.FromBytes(data), Origin{}); err != nil || d.Size != 1000 {
			t.Errorf("%s: got %+v, error %v", name, d, err)
		}
	}
	s := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(404) })
	if _, err := client(t, fast(at(s)...)).StatBlob(t.Context(), repo, digest.FromBytes(data), Origin{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got error %v", err)
	}
}

func TestErrorText(t *testing.T) {
	body := `{"errors":[{"code":"DENIED","message":"see https://ann:s3cret@x.test/?token=t0ken\u0000\n\u001b[31m ` + strings.Repeat("x", 5000) + `"}]}`
	s := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, body)
	})
	_, err := client(t, fast(at(s)...)).Manifest(t.Context(), tagged, Origin{})
	var e *Error
	if !errors.As(err, &e) || e.Code != "DENIED" || e.Status != 403 || e.Endpoint != s.host() || e.Repository != repo || e.Object != "v1" {
		t.Errorf("got %+v", e)
	}
	text := err.Error()
	for _, bad := range []string{"s3cret", "t0ken", "\n", "\x00", "\x1b"} {
		if strings.Contains(text, bad) {
			t.Errorf("error has %q: %s", bad, text)
		}
	}
	if want := "get manifest registry.test/team/app:v1 from " + s.host() + ": 403 Forbidden: DENIED: see https://…"; !strings.HasPrefix(text, want) || len(text) > 1000 {
		t.Errorf("got %s", text)
	}
}

func TestMetrics(t *testing.T) {
	data := randomBytes(1000)
	s := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			w.WriteHeader(404)
			return
		}
		serveBlob(w, r, data)
	})
	reg := prometheus.NewRegistry()
	cfg := fast(at(s)...)
	cfg.Registerer = reg
	c := client(t, cfg)
	for range 2 {
		_, _, _ = readBlob(t, c, data, 0, -1)
	}
	s.Close()
	_, _, _ = readBlob(t, c, data, 0, -1)
	want := `
# HELP kioo_upstream_bytes_total Bytes of answers received from registries and the storage they redirect to, by registry.
# TYPE kioo_upstream_bytes_total counter
kioo_upstream_bytes_total{registry="registry.test"} 1000
# HELP kioo_upstream_requests_total Requests to registries and the storage they redirect to, by registry and HTTP status ("error": no answer).
# TYPE kioo_upstream_requests_total counter
kioo_upstream_requests_total{code="200",registry="registry.test"} 1
kioo_upstream_requests_total{code="404",registry="registry.test"} 1
kioo_upstream_requests_total{code="error",registry="registry.test"} 3
`
	if err := testutil.GatherAndCompare(reg, bytes.NewBufferString(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, error %v", problems, err)
	}
}

// Whoever asks for made-up registries and statuses can't make metrics grow.
func TestMetricsAreBounded(t *testing.T) {
	m := newMetrics(nil)
	for i := range 10_000 {
		m.answered(fmt.Sprintf("r%d.test", i), 200)
		m.answered(fmt.Sprintf("dead%d.test", i), 0)
		m.answered("r0.test", i)
	}
	if n := testutil.CollectAndCount(m.requests); n > 3*maxLabels {
		t.Errorf("%d series", n)
	}
}

package registry_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestBase(t *testing.T) {
	s := newStack(t, options{})
	for _, path := range []string{"/v2/", "/v2", "/v2/?ns=quay.io"} {
		s.get(t, path).expect(t, 200, "Docker-Distribution-Api-Version", "registry/2.0", "Content-Type", "application/json")
		s.do(t, http.MethodHead, path).expect(t, 200)
	}
	s.get(t, "/v2/?ns=quay.io").expect(t, 200, "OCI-Namespace", "quay.io")
}

func TestManifest(t *testing.T) {
	s := newStack(t, options{})
	d := s.remote.putImage("org/app", "v1", []byte("layer"))
	size := fmt.Sprint(len(s.remote.manifests["org/app:v1"]))
	want := []string{
		"Content-Type", ocispec.MediaTypeImageManifest, "Docker-Content-Digest", d.String(), "Content-Length", size,
		"OCI-Namespace", upstreamHost, "ETag", `"` + d.String() + `"`,
	}
	for _, name := range []string{"v1", d.String()} {
		for _, path := range []string{"/v2/org/app/manifests/", "/v2/" + upstreamHost + "/org/app/manifests/"} {
			for range 2 { // From upstream and from the cache.
				s.do(t, http.MethodHead, path+name).expect(t, 200, want...)
				g := s.get(t, path+name+"?ns="+upstreamHost[:0]+"").status
				if g != 400 { // An empty ns is no host.
					t.Errorf("empty ns: %d", g)
				}
				if g := s.get(t, path+name).expect(t, 200, want...); digest.FromBytes(g.body) != d {
					t.Errorf("%s: body is %q", path+name, g.body)
				}
			}
		}
	}
	if n := s.remote.total(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	s.get(t, "/v2/org/app/manifests/v1", "If-None-Match", `"`+d.String()+`"`).expect(t, 304)
	s.get(t, "/v2/org/app/manifests/v1", "If-None-Match", `"sha256:other"`).expect(t, 200)
	s.get(t, "/v2/org/app/manifests/v2").expectError(t, 404, "MANIFEST_UNKNOWN")
	s.get(t, "/v2/org/app/manifests/"+digest.FromString("x").String()).expectError(t, 404, "MANIFEST_UNKNOWN")
}

func TestBlobRanges(t *testing.T) {
	s := newStack(t, options{})
	body := pattern(200_000)
	d := s.remote.putBlob("org/app", body)
	path := blobPath("org/app", d)
	s.do(t, http.MethodHead, path).expect(t, 200, "Content-Length", "200000", "Docker-Content-Digest", d.String(), "Accept-Ranges", "bytes")
	for i, test := range []struct {
		header string
		status int
		off, n int
	}{
		{"", 200, 0, 200000},
		{"bytes=0-", 206, 0, 200000},
		{"bytes=0-0", 206, 0, 1},
		{"bytes=100-199", 206, 100, 100},
		{"bytes=199999-", 206, 199999, 1},
		{"bytes=199990-999999", 206, 199990, 10},
		{"bytes=-5", 206, 199995, 5},
		{"bytes=-999999", 206, 0, 200000},
		{"bytes=0-99999999999999999999999", 206, 0, 200000},
		{"bytes=-99999999999999999999999", 206, 0, 200000},
		{"bytes=200000-", 416, 0, 0},
		{"bytes=99999999999999999999999-", 416, 0, 0},
		{"bytes=-0", 416, 0, 0},
		{"bytes=5-4", 200, 0, 200000},
		{"bytes=", 200, 0, 200000},
		{"bytes=-", 200, 0, 200000},
		{"bytes=a-b", 200, 0, 200000},
		{"bytes=0-1,5-6", 200, 0, 200000},
		{"bytes=+1-5", 200, 0, 200000},
		{"lines=0-1", 200, 0, 200000},
	} {
		for _, where := range []string{"upstream", "cache"} {
			t.Run(where+" "+test.header, func(t *testing.T) {
				body, path := body, path
				if where == "upstream" {
					body = append([]byte{byte(i)}, body[1:]...) // One that no earlier request has brought.
					path = blobPath("org/app", s.remote.putBlob("org/app", body))
				} else {
					s.get(t, path).expect(t, 200)
					s.heldSoon(t, d)
				}
				g := s.get(t, path, "Range", test.header)
				if test.status == 416 {
					g.expectError(t, 416, "RANGE_INVALID")
					g.expect(t, 416, "Content-Range", "bytes */200000")
					return
				}
				g.expect(t, test.status, "Content-Length", fmt.Sprint(test.n), "Content-Type", "application/octet-stream")
				if !bytes.Equal(g.body, body[test.off:test.off+test.n]) {
					t.Errorf("%d bytes that are not those from %d on", len(g.body), test.off)
				}
				if want := fmt.Sprintf("bytes %d-%d/200000", test.off, test.off+test.n-1); test.status == 206 && g.header.Get("Content-Range") != want {
					t.Errorf("Content-Range is %q, want %q", g.header.Get("Content-Range"), want)
				}
			})
		}
	}
	etag := `"` + d.String() + `"`
	s.get(t, path, "Range", "bytes=5-", "If-Range", etag).expect(t, 206)
	s.get(t, path, "Range", "bytes=5-", "If-Range", `"other"`).expect(t, 200)
}

func TestBadRequests(t *testing.T) {
	s := newStack(t, options{mirror: func(c *mirror.Config) {
		c.Policy = registry.PolicyOf(t, "registries: [{match: blocked.example.com, action: deny}]")
	}})
	d := digest.FromString("x").String()
	long := strings.Repeat("a", 256)
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/" + long + "/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a/", 33) + "manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/Org/app/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/org%2Fapp/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/org/%2e%2e/app/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/org/../app/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/org//app/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2//manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/manifests/.v1", 400, "MANIFEST_INVALID"},
		{"GET", "/v2/org/app/manifests/" + strings.Repeat("v", 129), 400, "MANIFEST_INVALID"},
		{"GET", "/v2/org/app/manifests/sha256:abc", 400, "DIGEST_INVALID"},
		{"GET", "/v2/org/app/blobs/v1", 400, "DIGEST_INVALID"},
		{"GET", "/v2/org/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "/v2/org/app/blobs/" + strings.ToUpper(d), 400, "DIGEST_INVALID"},
		{"GET", "/v2/org/app/manifests/v1?ns=", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/manifests/v1?ns=a/b", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/manifests/v1?ns=http://quay.io", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/manifests/v1?ns=quay.io&ns=ghcr.io", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/manifests/v1?ns=quay.io:99999", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/manifests/v1?ns=%zz", 400, "NAME_INVALID"},
		{"GET", "/v2/quay.io:99999/org/app/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/org/app/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/org/app/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/_catalog", 404, "UNSUPPORTED"},
		{"GET", "/v2/org/app/blobs/uploads/", 404, "UNSUPPORTED"},
		{"GET", "/", 404, "UNSUPPORTED"},
		{"GET", "/v3/", 404, "UNSUPPORTED"},
		{"GET", "/v2x/", 404, "UNSUPPORTED"},
		{"PUT", "/v2/org/app/manifests/v1", 405, "UNSUPPORTED"},
		{"POST", "/v2/org/app/blobs/uploads/", 405, "UNSUPPORTED"},
		{"PATCH", "/v2/org/app/blobs/uploads/1", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/org/app/manifests/v1", 405, "UNSUPPORTED"},
		{"OPTIONS", "/v2/", 405, "UNSUPPORTED"},
		{"GET", "/v2/org/app/manifests/v1?ns=blocked.example.com", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/blocked.example.com/org/app/blobs/" + d, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/check/manifests/probe?ns=kioo.invalid", 404, "NAME_UNKNOWN"},
		{"HEAD", "/v2/kioo.invalid/check/manifests/probe?ns=quay.io", 404, ""},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			if g := s.do(t, test.method, test.path); test.method == http.MethodHead {
				g.expect(t, test.status)
			} else {
				g.expectError(t, test.status, test.code)
			}
		})
	}
	s.do(t, "PUT", "/v2/org/app/manifests/v1").expect(t, 405, "Allow", "GET, HEAD")
	if n := s.remote.total(); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

func TestNoNameAnswersForAnother(t *testing.T) {
	s := newStack(t, options{})
	s.remote.putImage("library/nginx", "v1", []byte("a"))
	s.get(t, "/v2/library/nginx/manifests/v1?ns=one.example.com").expect(t, 200, "OCI-Namespace", "one.example.com")
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(404); return true })
	s.get(t, "/v2/library/nginx/manifests/v1?ns=two.example.com").expectError(t, 404, "MANIFEST_UNKNOWN")
	s.get(t, "/v2/two.example.com/library/nginx/manifests/v1").expectError(t, 404, "MANIFEST_UNKNOWN")
	s.get(t, "/v2/library/nginx/manifests/v1").expectError(t, 404, "MANIFEST_UNKNOWN")
	s.get(t, "/v2/one.example.com/library/nginx/manifests/v1").expect(t, 200)
}

func TestPrefix(t *testing.T) {
	s := newStack(t, options{registry: func(c *registry.Config) { c.Resolver.Prefix = "/mirror" }})
	s.remote.putImage("org/app", "v1", []byte("a"))
	s.get(t, "/mirror/v2/").expect(t, 200)
	s.get(t, "/mirror/v2/org/app/manifests/v1").expect(t, 200)
	s.get(t, "/v2/org/app/manifests/v1").expectError(t, 404, "UNSUPPORTED")
}

func TestChains(t *testing.T) {
	s := newStack(t, options{})
	s.remote.putImage("org/app", "v1", []byte("a"))
	var via, forwarded string
	s.remote.set(func(_ http.ResponseWriter, r *http.Request) bool {
		via, forwarded = strings.Join(r.Header.Values("Via"), ", "), r.Header.Get("X-Forwarded-For")
		return false
	})
	path := "/v2/org/app/manifests/v1"
	s.get(t, path, "Via", "1.1 other", "X-Forwarded-For", "10.0.0.1").expect(t, 200)
	if via != "1.1 other, 1.1 kioo" || forwarded != "10.0.0.1, 127.0.0.1" {
		t.Errorf("upstream saw Via %q and X-Forwarded-For %q", via, forwarded)
	}
	s.get(t, path, "Via", "1.1 other, 1.1 kioo-test (here)").expectError(t, 508, "UNSUPPORTED")
	s.get(t, path, "Via", "1.1 a", "Via", "1.1 b, 1.1 c").expect(t, 200)
	s.get(t, path, "Via", "1.1 a", "Via", "1.1 b, 1.1 c, 1.1 d").expectError(t, 508, "UNSUPPORTED")
	s.remote.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(508); return true })
	s.get(t, "/v2/org/app/manifests/v2").expectError(t, 508, "UNSUPPORTED")
}

func TestTagsList(t *testing.T) {
	s := newStack(t, options{})
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/org/app/tags/list?last=b&n=2>; rel="next"`)
			fmt.Fprint(w, `{"name":"org/app","tags":["a","b"]}`)
		} else {
			fmt.Fprint(w, `{"name":"org/app","tags":null}`)
		}
		return true
	})
	g := s.get(t, "/v2/org/app/tags/list?n=2&ns="+upstreamHost).expect(t, 200, "Content-Type", "application/json",
		"Link", `</v2/org/app/tags/list?last=b&n=2&ns=`+upstreamHost+`>; rel="next"`)
	if string(g.body) != `{"name":"org/app","tags":["a","b"]}` {
		t.Errorf("first page: %s", g.body)
	}
	g = s.get(t, "/v2/org/app/tags/list?n=2&last=b").expect(t, 200, "Link", "-")
	if string(g.body) != `{"name":"org/app","tags":[]}` {
		t.Errorf("last page: %s", g.body)
	}
}

func TestReferrers(t *testing.T) {
	s := newStack(t, options{})
	subject := digest.FromString("subject")
	index := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
		{"mediaType":"m","digest":"` + digest.FromString("1").String() + `","size":1,"artifactType":"sbom"},
		{"mediaType":"m","digest":"` + digest.FromString("2").String() + `","size":1,"artifactType":"signature"}]}`
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/referrers/"+subject.String()) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			fmt.Fprint(w, index)
			return true
		}
		return false
	})
	path := "/v2/org/app/referrers/" + subject.String()
	if g := s.get(t, path).expect(t, 200, "Content-Type", ocispec.MediaTypeImageIndex, "OCI-Filters-Applied", "-"); strings.Count(string(g.body), "artifactType") != 2 {
		t.Errorf("all: %s", g.body)
	}
	if g := s.get(t, path+"?artifactType=sbom").expect(t, 200, "OCI-Filters-Applied", "artifactType"); strings.Contains(string(g.body), "signature") || !strings.Contains(string(g.body), "sbom") {
		t.Errorf("filtered: %s", g.body)
	}
	g := s.get(t, "/v2/org/app/referrers/"+digest.FromString("other").String()).expect(t, 200)
	if !strings.Contains(string(g.body), `"manifests":[]`) {
		t.Errorf("none: %s", g.body)
	}
}

package reference

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func resolve(t *testing.T, r Resolver, target string) (Request, error) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	return r.Resolve(u)
}

func TestResolve(t *testing.T) {
	sha512 := "sha512:" + strings.Repeat("0f", 64)
	for _, test := range []struct {
		target string
		kind   Kind
		want   string
	}{
		{"/v2/nginx/manifests/latest", KindManifest, "docker.io/library/nginx:latest"},
		{"/v2/library/nginx/manifests/latest", KindManifest, "docker.io/library/nginx:latest"},
		{"/v2/org/app/manifests/v1", KindManifest, "docker.io/org/app:v1"},
		{"/v2/org/app/manifests/" + someDigest, KindManifest, "docker.io/org/app@" + someDigest},
		{"/v2/org/app/manifests/" + strings.Replace(someDigest, ":", "%3A", 1), KindManifest, "docker.io/org/app@" + someDigest},
		{"/v2/org/app/blobs/" + sha512, KindBlob, "docker.io/org/app@" + sha512},
		{"/v2/org/app/tags/list", KindTags, "docker.io/org/app"},
		{"/v2/org/app/referrers/" + someDigest, KindReferrers, "docker.io/org/app@" + someDigest},
		{"/v2/quay.io/org/app/manifests/v1", KindManifest, "quay.io/org/app:v1"},
		{"/v2/Quay.IO/org/app/manifests/v1", KindManifest, "quay.io/org/app:v1"},
		{"/v2/localhost/app/manifests/v1", KindManifest, "localhost/app:v1"},
		{"/v2/registry:5000/app/manifests/v1", KindManifest, "registry:5000/app:v1"},
		{"/v2/docker.io/nginx/manifests/v1", KindManifest, "docker.io/library/nginx:v1"},
		{"/v2/index.docker.io/nginx/manifests/v1", KindManifest, "docker.io/library/nginx:v1"},
		// ns goes first, and then a host in the path is part of the name.
		{"/v2/org/app/manifests/v1?ns=ghcr.io", KindManifest, "ghcr.io/org/app:v1"},
		{"/v2/quay.io/app/manifests/v1?ns=ghcr.io", KindManifest, "ghcr.io/quay.io/app:v1"},
		{"/v2/app/manifests/v1?ns=registry", KindManifest, "registry/app:v1"},
		{"/v2/app/manifests/v1?ns=registry.example.com%3A5443", KindManifest, "registry.example.com:5443/app:v1"},
		{"/v2/app/manifests/v1?ns=[::1]:5000", KindManifest, "[::1]:5000/app:v1"},
		{"/v2/nginx/manifests/v1?ns=docker.io", KindManifest, "docker.io/library/nginx:v1"},
		// Words of the API are names too.
		{"/v2/manifests/manifests/manifests", KindManifest, "docker.io/library/manifests:manifests"},
		{"/v2/org/tags/list/tags/list", KindTags, "docker.io/org/tags/list"},
		{"/v2/blobs/blobs/" + someDigest, KindBlob, "docker.io/library/blobs@" + someDigest},
	} {
		got, err := resolve(t, Resolver{Default: DockerHub}, test.target)
		if err != nil || got.Kind != test.kind || got.String() != test.want {
			t.Errorf("%s: %v %s, %v; want %v %s", test.target, got.Kind, got, err, test.kind, test.want)
		}
		if got.ByQuery != strings.Contains(test.target, "?ns=") {
			t.Errorf("%s: by query: %t", test.target, got.ByQuery)
		}
		if test.kind != KindManifest || err != nil || got.Registry == "registry" {
			continue // What users write can't name a registry without a dot or a port.
		}
		if back, err := Parse(got.Reference.String()); err != nil || back != got.Reference {
			t.Errorf("Parse(%q) = %v, %v", got.Reference, back, err)
		}
	}
}

func TestNoDefault(t *testing.T) {
	var invalid *Error
	if _, err := resolve(t, Resolver{}, "/v2/org/app/manifests/v1"); !errors.As(err, &invalid) || invalid.Code != CodeNameInvalid {
		t.Errorf("%v", err)
	}
	if got, err := resolve(t, Resolver{}, "/v2/quay.io/app/manifests/v1"); err != nil || got.Registry != "quay.io" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "UPPER", "a:b:c", "quay.io/a@sha256:abc", "quay.io:0/a", "http://quay.io/a", strings.Repeat("a/", 40) + "b"} {
		if got, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %v", s, got)
		}
	}
}

// FuzzResolve checks that whatever resolves is a valid name whose parts are in bounds, and that it means the same when
// it is asked for with ns.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{"/v2/a/manifests/b", "/v2/quay.io/a/blobs/" + someDigest + "?ns=x:1", "/v2/a%2Fb/tags/list", "/v2/%61/tags/list?ns=[::1]"} {
		f.Add(seed)
	}
	r := Resolver{Default: DockerHub}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		got, err := r.Resolve(u)
		if err != nil {
			var invalid *Error
			if !errors.As(err, &invalid) || invalid.Code == "" {
				t.Fatalf("%q: error without a code: %v", target, err)
			}
			return
		}
		if got.Kind == KindBase {
			return
		}
		if len(got.Path) > 255+len("library/") || strings.Contains(got.Path, "..") || strings.ContainsAny(got.Path, "%\\: ") {
			t.Fatalf("%q: path %q", target, got.Path)
		}
		if got.Kind != KindManifest {
			return
		}
		again, err := r.Resolve(&url.URL{
			Path:     "/v2/" + got.Path + "/manifests/" + got.Object(),
			RawQuery: url.Values{"ns": {got.Registry}}.Encode(),
		})
		if err != nil || again.Kind != got.Kind || again.Reference != got.Reference || !again.ByQuery {
			t.Fatalf("%q: %v, but with ns %v, %v", target, got, again, err)
		}
	})
}

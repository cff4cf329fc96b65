package clienttest

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kioo-dev/kioo/hack/registrytest"
)

// craneOptions are a client without credentials and with connections of its own.
func craneOptions(t *testing.T) (crane.Option, []remote.Option) {
	tr := remote.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	return func(o *crane.Options) {
			for _, option := range []crane.Option{
				crane.Insecure, crane.WithTransport(tr), crane.WithAuth(authn.Anonymous), crane.WithContext(t.Context()),
			} {
				option(o)
			}
		}, []remote.Option{
			remote.WithTransport(tr), remote.WithAuth(authn.Anonymous), remote.WithContext(t.Context()),
		}
}

func parse(t *testing.T, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// readImage reads all of an image.
func readImage(t *testing.T, img v1.Image) {
	t.Helper()
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Errorf("image: %v", err)
	}
	registrytest.CheckLayers(t, img)
}

func TestCrane(t *testing.T) {
	eachUpstream(t, func(t *testing.T, n *node) {
		n.pullTwice(t, n.image.blobs, func(t *testing.T) {
			_, options := craneOptions(t)
			index, err := remote.Index(parse(t, pathForm(n.host, ":"+tag)), options...)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := index.Digest(); err != nil || got != n.image.index.Digest {
				t.Errorf("the tag is %v, %v; want %v", got, err, n.image.index.Digest)
			}
			for _, desc := range n.image.manifests {
				img, err := index.Image(desc.Digest)
				if err != nil {
					t.Fatal(err)
				}
				readImage(t, img)
			}
		})
	})
}

// TestCraneImage is crane pull as people type it: one platform, by tag.
func TestCraneImage(t *testing.T) {
	n := newNode(t, upstreams["token"])
	n.pullTwice(t, n.image.amd64, func(t *testing.T) {
		option, _ := craneOptions(t)
		platform := crane.WithPlatform(&v1.Platform{OS: "linux", Architecture: "amd64"})
		img, err := crane.Pull(pathForm(n.host, ":"+tag), option, platform)
		if err != nil {
			t.Fatal(err)
		}
		readImage(t, img)
		if digest, err := crane.Digest(pathForm(n.host, ":"+tag), option); err != nil || digest != n.image.index.Digest.String() {
			t.Errorf("crane digest: %s, %v", digest, err)
		}
	})
}

func TestCraneReferrers(t *testing.T) {
	eachUpstream(t, func(t *testing.T, n *node) {
		_, options := craneOptions(t)
		subject := parse(t, pathForm(n.host, "@"+n.image.index.Digest.String())).(name.Digest)
		for _, tt := range []struct {
			filter string
			want   []v1.Hash
		}{
			{"", []v1.Hash{n.image.signature.Digest, n.image.sbom.Digest}},
			{signatureType, []v1.Hash{n.image.signature.Digest}},
			{sbomType, []v1.Hash{n.image.sbom.Digest}},
			{"application/vnd.example.other", nil},
		} {
			filtered := options
			if tt.filter != "" {
				filtered = append(slices.Clone(options), remote.WithFilter("artifactType", tt.filter))
			}
			referrers, err := remote.Referrers(subject, filtered...)
			if err != nil {
				t.Fatal(err)
			}
			manifest, err := referrers.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			var got []v1.Hash
			for _, desc := range manifest.Manifests {
				got = append(got, desc.Digest)
			}
			if !sameHashes(got, tt.want) {
				t.Errorf("referrers of type %q: %v, want %v", tt.filter, got, tt.want)
			}
		}
		artifact, err := remote.Image(parse(t, pathForm(n.host, "@"+n.image.sbom.Digest.String())), options...)
		if err != nil {
			t.Fatal(err)
		}
		readImage(t, artifact)
	})
}

func sameHashes(a, b []v1.Hash) bool {
	byText := func(x, y v1.Hash) int { return slices.Compare([]byte(x.String()), []byte(y.String())) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), byText), slices.SortedFunc(slices.Values(b), byText))
}

func TestCraneTags(t *testing.T) {
	eachUpstream(t, func(t *testing.T, n *node) {
		option, options := craneOptions(t)
		want, err := remote.List(parse(t, n.upstream.DirectHost()+"/"+repository).Context(),
			append(slices.Clone(options), remote.WithAuth(n.upstream.Authenticator()))...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := crane.ListTags(pathForm(n.host, ""), option)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) || !slices.Contains(got, tag) {
			t.Errorf("tags %v, want %v", got, want)
		}
		// Page by page, so that the client follows Kioo's own links.
		paged, err := remote.List(parse(t, pathForm(n.host, "")).Context(), append(slices.Clone(options), remote.WithPageSize(1))...)
		if err != nil || !slices.Equal(paged, want) {
			t.Errorf("tags by single pages %v, %v; want %v", paged, err, want)
		}
	})
}

func TestCraneMisses(t *testing.T) {
	n := newNode(t, upstreams["token"])
	option, _ := craneOptions(t)
	for _, ref := range []string{":gone", "@sha256:" + hexOf(make([]byte, 32))} {
		if _, err := crane.Manifest(pathForm(n.host, ref), option); err == nil {
			t.Errorf("%s was found", ref)
		}
	}
	if err := crane.Tag(pathForm(n.host, ":"+tag), "v2", option); err == nil {
		t.Error("a mirror took a tag")
	}
}

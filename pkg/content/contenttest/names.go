package contenttest

import (
	"errors"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func testMediaTypes(t *testing.T, f Fixture) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)
	f.Put(t, ocispec.MediaTypeImageIndex, manifest)
	if got := open(t, f.Store, digest.FromBytes(manifest)).MediaType(); got != ocispec.MediaTypeImageIndex {
		t.Errorf("media type of a manifest is %q, want %q", got, ocispec.MediaTypeImageIndex)
	}
	layer := []byte("not really a layer")
	f.Put(t, ocispec.MediaTypeImageLayerGzip, layer)
	if got := open(t, f.Store, digest.FromBytes(layer)).MediaType(); got != "" && got != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("media type of a layer is %q, want none or %q", got, ocispec.MediaTypeImageLayerGzip)
	}
}

func testTags(t *testing.T, f Fixture) {
	store, ok := f.Store.(content.TagStore)
	if !ok {
		if f.SetTag != nil {
			t.Fatal("the fixture can set tags, but the store is no content.TagStore")
		}
		t.Skip("the store knows no tags")
	}
	manifest := func(text string) ocispec.Descriptor {
		body := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[],` +
			`"annotations":{"text":"` + text + `"}}`)
		f.Put(t, ocispec.MediaTypeImageIndex, body)
		return ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(body), Size: int64(len(body)),
		}
	}
	ref := func(registry, path, tag string) reference.Reference { return parse(t, registry+"/"+path+":"+tag) }
	start := time.Now()
	tagged := ref("registry.example.com:5000", "org/app", "v1")
	known := func(want ocispec.Descriptor) {
		t.Helper()
		got, err := store.Tag(t.Context(), tagged)
		if err != nil {
			t.Fatalf("tag: %v", err)
		}
		if got.Target.MediaType != want.MediaType || got.Target.Digest != want.Digest || got.Target.Size != want.Size {
			t.Errorf("tag means %+v, want %+v", got.Target, want)
		}
		// Stores that learn tags from a runtime have times of their own, but no store may claim the future.
		if got.Confirmed.Before(start.Add(-time.Minute)) || got.Confirmed.After(time.Now().Add(time.Minute)) {
			t.Errorf("tag was confirmed at %s", got.Confirmed)
		}
	}
	unknown := func(ref reference.Reference) {
		t.Helper()
		if got, err := store.Tag(t.Context(), ref); !errors.Is(err, content.ErrNotFound) {
			t.Errorf("tag %s gave %+v, %v, want ErrNotFound", ref, got, err)
		}
	}

	unknown(tagged)
	first, second := manifest("first"), manifest("second")
	f.SetTag(t, tagged, content.Tag{Target: first, Confirmed: time.Now()})
	known(first)
	f.SetTag(t, tagged, content.Tag{Target: second, Confirmed: time.Now()})
	known(second)

	// Nothing answers for another's name.
	unknown(ref("registry.example.com", "org/app", "v1"))
	unknown(ref("docker.io", "org/app", "v1"))
	unknown(ref("registry.example.com:5000", "app", "v1"))
	unknown(ref("registry.example.com:5000", "org/app", "v2"))
	unknown(reference.Reference{Repository: tagged.Repository})
	unknown(reference.Reference{Repository: tagged.Repository, Digest: second.Digest})
}

func parse(t *testing.T, name string) reference.Reference {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

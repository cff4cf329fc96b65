package attack

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/kioo-dev/kioo/hack/registrytest"
)

// image is one that was pushed.
type image struct {
	registry string
	repo     string
	tag      string
	v1.Image
	desc v1.Descriptor
	// objects are what it consists of, manifest first: below its repository, "blobs/sha256:…".
	objects []object
}

type object struct {
	path      string
	digest    digest.Digest
	size      int64
	mediaType string
}

// name is the image's full name, for containerd.
func (i *image) name() string { return i.registry + "/" + i.repo + ":" + i.tag }

// layers are the image's layers.
func (i *image) layers() []object { return i.objects[2:] }

// describe lists what an image consists of.
func describe(t *testing.T, registry, repo, tag string, img v1.Image) *image {
	t.Helper()
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	i := &image{registry: registry, repo: repo, tag: tag, Image: img, desc: v1.Descriptor{
		MediaType: manifest.MediaType, Digest: hash, Size: size,
	}}
	i.objects = []object{{"manifests/" + hash.String(), digest.Digest(hash.String()), size, string(manifest.MediaType)}}
	for _, d := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		i.objects = append(i.objects, object{"blobs/" + d.Digest.String(), digest.Digest(d.Digest.String()), d.Size, string(d.MediaType)})
	}
	return i
}

// seed makes what is in an image another for each name.
func seed(name string) uint64 {
	var sum uint64
	for _, c := range name {
		sum = sum*31 + uint64(c)
	}
	return sum
}

// newImage makes an image without pushing it.
func newImage(t *testing.T, name string, layers ...int64) v1.Image {
	t.Helper()
	img, err := registrytest.NewImage(seed(name), v1.Platform{OS: "linux", Architecture: "amd64"}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// push pushes an image that nobody has seen before.
func (w *world) push(t *testing.T, s *side, repo, tag string, layers ...int64) *image {
	t.Helper()
	img := newImage(t, w.fresh(s.Host()+"/"+repo+":"+tag), layers...)
	if _, err := s.Push(t.Context(), repo+":"+tag, img); err != nil {
		t.Fatal(err)
	}
	return describe(t, s.Host(), repo, tag, img)
}

// secret pushes an image of tenant A's into a repository of its own.
func (w *world) secret(t *testing.T, layers ...int64) *image {
	t.Helper()
	return w.push(t, w.private, w.fresh(tenantA+"/app"), "v1", layers...)
}

// readLayer reads all of a layer.
func readLayer(layer v1.Layer) ([]byte, error) {
	in, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(in)
}

// put puts a manifest into a registry as it is.
func (w *world) put(t *testing.T, s *side, repo string, dgst digest.Digest, mediaType string, body []byte) {
	t.Helper()
	u := "http://" + s.DirectHost() + "/v2/" + repo + "/manifests/" + dgst.String()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := w.direct.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("put %s into %s: %s", dgst, repo, resp.Status)
	}
}

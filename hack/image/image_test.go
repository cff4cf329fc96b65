package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const imageName = "ghcr.io/kioo-dev/kioo:v1.2.3"

// build writes an image of two made-up binaries and returns the archive's path.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"-output", filepath.Join(dir, "image.tar"), "-name", imageName, "-version", "v1.2.3", "-revision", "abc"}
	for _, architecture := range []string{"amd64", "arm64"} {
		path := filepath.Join(dir, architecture)
		if err := os.WriteFile(path, []byte("program for "+architecture), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "linux/"+architecture+"="+path)
	}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "image.tar")
}

func TestContainerdReadsIt(t *testing.T) {
	file, err := os.Open(build(t))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	index, err := archive.ImportIndex(t.Context(), store, file)
	if err != nil {
		t.Fatal(err)
	}
	var listed ocispec.Index
	data, err := content.ReadBlob(t.Context(), store, index)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed.Manifests) != 1 || listed.Manifests[0].Annotations[images.AnnotationImageName] != imageName {
		t.Fatalf("the archive names %+v", listed.Manifests)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		only := platforms.OnlyStrict(platforms.MustParse("linux/" + architecture))
		manifest, err := images.Manifest(t.Context(), store, listed.Manifests[0], only)
		if err != nil {
			t.Fatal(err)
		}
		var image ocispec.Image
		data, err := content.ReadBlob(t.Context(), store, manifest.Config)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &image); err != nil {
			t.Fatal(err)
		}
		want := ocispec.ImageConfig{Entrypoint: []string{"/kioo"}, Cmd: []string{"serve"}, Labels: map[string]string{
			"org.opencontainers.image.title":    "kioo",
			"org.opencontainers.image.source":   "https://github.com/kioo-dev/kioo",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  "v1.2.3",
			"org.opencontainers.image.revision": "abc",
		}}
		if diff := cmp.Diff(want, image.Config); diff != "" || image.Architecture != architecture || image.OS != "linux" {
			t.Errorf("the image of %s is for %s/%s (-want +got):\n%s", architecture, image.OS, image.Architecture, diff)
		}
		layer, err := store.ReaderAt(t.Context(), manifest.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		defer layer.Close()
		unpacked, err := compression.DecompressStream(content.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		defer unpacked.Close()
		checkLayer(t, unpacked, "program for "+architecture)
	}
}

// TestDockerReadsIt reads the archive as docker load does.
func TestDockerReadsIt(t *testing.T) {
	image, err := tarball.ImageFromPath(build(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	files := mutate.Extract(image)
	defer files.Close()
	checkLayer(t, files, "program for amd64")
	file, err := image.ConfigFile()
	if err != nil || file.Architecture != "amd64" {
		t.Errorf("docker loads an image for %+v, %v", file, err)
	}
}

func checkLayer(t *testing.T, r io.Reader, program string) {
	t.Helper()
	files := tar.NewReader(r)
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != "kioo" || header.Mode != 0o755 || string(data) != program {
		t.Errorf("the layer has %s with mode %o and %q", header.Name, header.Mode, data)
	}
	if _, err := files.Next(); err != io.EOF {
		t.Errorf("the layer has more than the program: %v", err)
	}
}

func TestSameBytesAgain(t *testing.T) {
	one, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same build gives other bytes")
	}
}

func TestRefuses(t *testing.T) {
	tests := map[string][]string{
		"no binary":   {"-name", imageName},
		"no name":     {"linux/amd64=/bin/true"},
		"no platform": {"-name", imageName, "/bin/true"},
		"bad name":    {"-name", "Not A Name", "linux/amd64=/bin/true"},
		"no file":     {"-name", imageName, "linux/amd64=/does/not/exist"},
		"bad flag":    {"-nmae", imageName},
	}
	for name, args := range tests {
		if err := run(append([]string{"-output", filepath.Join(t.TempDir(), "image.tar")}, args...)); err == nil {
			t.Errorf("%s: run() took it", name)
		}
	}
}

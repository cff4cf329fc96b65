package e2e_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// images makes images that run, and that nobody had before.
type images struct {
	s     *suite
	agent v1.Layer
	seed  uint64
}

// image is one that upstream has.
type image struct {
	tag, digest string // Full references.
	layers      []v1.Hash
	size        int64 // Of the layers that no other image has.
}

func newImages(t *testing.T, s *suite) *images {
	t.Helper()
	path := filepath.Join(s.dir, "agent")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build agent: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "agent", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return &images{s: s, agent: layer}
}

// push gives upstream an image with layers of these sizes, and one with the agent.
func (i *images) push(t *testing.T, name string, sizes ...int64) image {
	t.Helper()
	pushed, err := i.make(t.Context(), i.s.upstream, "e2e/"+name, sizes...)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

// make gives a registry an image under that name, and says nothing to a test: it may run beside one.
func (i *images) make(ctx context.Context, to *upstream, name string, sizes ...int64) (image, error) {
	i.seed++
	base, err := registrytest.NewImage(i.seed, v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, sizes...)
	if err != nil {
		return image{}, err
	}
	repository := to.host + "/" + name
	made := image{tag: repository + ":v1"}
	layers, err := base.Layers()
	if err != nil {
		return image{}, err
	}
	for n, l := range layers {
		hash, err := l.Digest()
		if err != nil {
			return image{}, err
		}
		made.layers = append(made.layers, hash)
		made.size += sizes[n]
	}
	full, err := mutate.AppendLayers(base, i.agent)
	if err != nil {
		return image{}, err
	}
	file, err := full.ConfigFile()
	if err != nil {
		return image{}, err
	}
	file = file.DeepCopy()
	file.Config.Entrypoint = []string{"/agent"}
	if full, err = mutate.ConfigFile(full, file); err != nil {
		return image{}, err
	}
	desc, err := to.registry.Push(ctx, name+":v1", full)
	if err != nil {
		return image{}, err
	}
	made.digest = repository + "@" + desc.Digest.String()
	return made, nil
}

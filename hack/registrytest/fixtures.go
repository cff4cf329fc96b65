package registrytest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// minLayer is the smallest layer: a tar header, a little of a file, and the archive's end.
const minLayer = 4 * 512

// NewImage makes an OCI image for a platform whose layers are uncompressed archives of exactly these sizes in bytes.
// Each holds one file of random bytes: the same for the same seed, and others for each other seed.
func NewImage(seed uint64, platform v1.Platform, layers ...int64) (v1.Image, error) {
	adds := make([]mutate.Addendum, len(layers))
	for i, size := range layers {
		l, err := newLayer(seed, uint64(i), size)
		if err != nil {
			return nil, fmt.Errorf("image %d: layer %d: %w", seed, i, err)
		}
		adds[i] = mutate.Addendum{Layer: l, History: v1.History{CreatedBy: "registrytest"}}
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, fmt.Errorf("image %d: %w", seed, err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %d: %w", seed, err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = platform.OS, platform.Architecture, platform.Variant
	return mutate.ConfigFile(img, cfg)
}

// NewForeignImage is NewImage with one layer more, which may not be distributed and is at urls; Push leaves it out. It
// returns the layer's digest and bytes as well.
func NewForeignImage(seed uint64, platform v1.Platform, size int64, urls []string, layers ...int64) (v1.Image, v1.Hash, []byte, error) {
	img, err := NewImage(seed, platform, layers...)
	if err != nil {
		return nil, v1.Hash{}, nil, err
	}
	foreign, err := newLayer(seed, uint64(len(layers)), size)
	if err != nil {
		return nil, v1.Hash{}, nil, fmt.Errorf("image %d: foreign layer: %w", seed, err)
	}
	body, err := io.ReadAll(foreign.open())
	if err != nil {
		return nil, v1.Hash{}, nil, fmt.Errorf("image %d: foreign layer: %w", seed, err)
	}
	img, err = mutate.Append(img, mutate.Addendum{
		Layer: restricted{foreign}, URLs: urls, History: v1.History{CreatedBy: "registrytest"},
	})
	return img, foreign.digest, body, err
}

// NewIndex makes an OCI index of one image for linux/amd64 and one for linux/arm64, with layers as NewImage makes.
func NewIndex(seed uint64, layers ...int64) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, arch := range []string{"amd64", "arm64"} {
		platform := v1.Platform{OS: "linux", Architecture: arch}
		img, err := NewImage(seed<<8+uint64(i), platform, layers...)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return index, nil
}

// NewArtifact makes an artifact, such as a signature, that refers to the manifest that subject describes.
func NewArtifact(artifactType string, subject v1.Descriptor, payload []byte) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	// Clients and registries take the configuration's media type for the type of an artifact that says no other.
	img = mutate.ConfigMediaType(img, types.MediaType(artifactType))
	img, err := mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(payload, "application/octet-stream")})
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", artifactType, err)
	}
	return mutate.Subject(img, subject).(v1.Image), nil
}

// Push pushes an image or an index under a name without registry, "org/app:v1", by a real push, and describes its
// manifest. What refers to a subject becomes a referrer of it, by the tag schema, for distribution has no referrers
// API.
func (r *Registry) Push(ctx context.Context, to string, what remote.Taggable) (v1.Descriptor, error) {
	ref, err := name.ParseReference(r.DirectHost()+"/"+to, name.Insecure, name.StrictValidation)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("push %s: %w", to, err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuth(r.Authenticator())}
	if r.tokens != nil && r.cfg.Realm != "" {
		tr := near{new(http.Transport), r.tokens}
		defer tr.CloseIdleConnections()
		options = append(options, remote.WithTransport(tr))
	}
	if err := remote.Push(ref, what, options...); err != nil {
		return v1.Descriptor{}, fmt.Errorf("push %s: %w", to, err)
	}
	describable, ok := what.(partial.Describable)
	if !ok {
		return v1.Descriptor{}, fmt.Errorf("push %s: %T does not say what it is", to, what)
	}
	desc, err := partial.Descriptor(describable)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("push %s: %w", to, err)
	}
	return *desc, nil
}

// Authenticator identifies a client of go-containerregistry with the registry's credentials.
func (r *Registry) Authenticator() authn.Authenticator {
	username, password := r.Credentials()
	if username == "" {
		return authn.Anonymous
	}
	return &authn.Basic{Username: username, Password: password}
}

// layer is an archive of random bytes which is made anew whenever somebody reads it, so that large ones need no
// memory. partial.UncompressedToLayer would compress it, which nobody here wants to wait for.
type layer struct {
	seed   [32]byte
	header []byte
	file   int64
	size   int64
	digest v1.Hash
}

func newLayer(seed, number uint64, size int64) (*layer, error) {
	if size < minLayer {
		return nil, fmt.Errorf("%d bytes are less than a layer's %d", size, minLayer)
	}
	l := &layer{size: size}
	binary.LittleEndian.PutUint64(l.seed[:], seed)
	binary.LittleEndian.PutUint64(l.seed[8:], number)
	l.file = (size - 3*512) / 512 * 512 // Whole blocks, so that only the end of the archive needs padding.
	var header bytes.Buffer
	err := tar.NewWriter(&header).WriteHeader(&tar.Header{
		Name: fmt.Sprintf("layer-%d", number), Mode: 0o644, Size: l.file, Format: tar.FormatGNU,
	})
	if err != nil {
		return nil, err
	}
	l.header = header.Bytes()
	l.digest, _, err = v1.SHA256(l.open())
	return l, err
}

func (l *layer) open() io.Reader {
	end := l.size - int64(len(l.header)) - l.file
	return io.MultiReader(
		bytes.NewReader(l.header),
		io.LimitReader(rand.NewChaCha8(l.seed), l.file),
		strings.NewReader(strings.Repeat("\x00", int(end))),
	)
}

// Digest implements v1.Layer.
func (l *layer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID implements v1.Layer.
func (l *layer) DiffID() (v1.Hash, error) { return l.digest, nil }

// Compressed implements v1.Layer.
func (l *layer) Compressed() (io.ReadCloser, error) { return io.NopCloser(l.open()), nil }

// Uncompressed implements v1.Layer.
func (l *layer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

// Size implements v1.Layer.
func (l *layer) Size() (int64, error) { return l.size, nil }

// MediaType implements v1.Layer.
func (l *layer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }

// CheckLayers reads all layers of an image that a client gives. The client checks the digests, and this that it did.
func CheckLayers(tb testing.TB, img v1.Image) {
	tb.Helper()
	layers, err := img.Layers()
	if err != nil {
		tb.Fatal(err)
	}
	for _, layer := range layers {
		want, err := layer.Digest()
		if err != nil {
			tb.Fatal(err)
		}
		rc, err := layer.Compressed()
		if err != nil {
			tb.Fatal(err)
		}
		if got, _, err := v1.SHA256(rc); err != nil || got != want {
			tb.Errorf("layer %v has digest %v, %v", want, got, err)
		}
		if err := rc.Close(); err != nil {
			tb.Error(err)
		}
	}
}

// restricted is a layer that may not be distributed.
type restricted struct{ *layer }

// MediaType implements v1.Layer.
func (restricted) MediaType() (types.MediaType, error) {
	return types.OCIUncompressedRestrictedLayer, nil
}

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

type config struct {
	output, name, version, revision string
	binaries                        []binary
}

type binary struct{ system, architecture, path string }

// write makes the images and puts them into one archive.
func write(cfg config) error {
	tag, err := name.NewTag(cfg.name)
	if err != nil {
		return fmt.Errorf("name image: %w", err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var first v1.Image
	for _, b := range cfg.binaries {
		image, err := cfg.image(b)
		if err != nil {
			return fmt.Errorf("make image of %s: %w", b.path, err)
		}
		if first == nil {
			first = image
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: b.system, Architecture: b.architecture},
		}})
	}
	dir, err := os.MkdirTemp("", "kioo-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("start layout: %w", err)
	}
	// containerd reads the first annotation, everybody else the second.
	err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          tag.Name(),
		"org.opencontainers.image.ref.name": tag.TagStr(),
	}))
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	if err := writeDockerManifest(filepath.Join(dir, "manifest.json"), tag, first); err != nil {
		return fmt.Errorf("write manifest for docker: %w", err)
	}
	return pack(dir, cfg.output)
}

// image makes one platform's image: one layer with one file.
func (cfg config) image(b binary) (v1.Image, error) {
	program, err := os.ReadFile(b.path)
	if err != nil {
		return nil, err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	header := &tar.Header{Name: "kioo", Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{CreatedBy: "COPY kioo /kioo", Created: v1.Time{Time: time.Unix(0, 0).UTC()}},
	})
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = b.system, b.architecture, v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config.Entrypoint, file.Config.Cmd = []string{"/kioo"}, []string{"serve"}
	file.Config.Labels = map[string]string{
		"org.opencontainers.image.title":    "kioo",
		"org.opencontainers.image.source":   "https://github.com/kioo-dev/kioo",
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.version":  cfg.version,
	}
	if cfg.revision != "" {
		file.Config.Labels["org.opencontainers.image.revision"] = cfg.revision
	}
	return mutate.ConfigFile(image, file)
}

// writeDockerManifest says what docker load wants to know. It names files of the layout, so nothing is there twice.
func writeDockerManifest(path string, tag name.Tag, image v1.Image) error {
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	blob := func(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }
	entry := tarball.Descriptor{Config: blob(manifest.Config), RepoTags: []string{tag.Name()}}
	for _, l := range manifest.Layers {
		entry.Layers = append(entry.Layers, blob(l))
	}
	data, err := json.Marshal(tarball.Manifest{entry})
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// pack puts a directory's files into a tar archive, in the order of their names.
func pack(dir, output string) (err error) {
	file, err := os.Create(output)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
	}()
	w := tar.NewWriter(file)
	root := os.DirFS(dir)
	err = fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: path, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", output, err)
	}
	return w.Close()
}

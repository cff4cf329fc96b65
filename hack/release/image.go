package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// openImage gives the index in an archive that hack/image wrote. The directory that it is unpacked to is removed with
// done.
func openImage(path string) (_ v1.ImageIndex, done func(), err error) {
	dir, err := os.MkdirTemp("", "kioo-release-image-")
	if err != nil {
		return nil, nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			done()
		}
	}()
	if err := unpack(path, dir); err != nil {
		return nil, nil, err
	}
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, nil, err
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		return nil, nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, nil, fmt.Errorf("%s has %d images, not one", path, len(manifest.Manifests))
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	return index, done, err
}

// imageDigest gives the digest by which a registry will know the image.
func imageDigest(path string) (string, error) {
	index, done, err := openImage(path)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	defer done()
	digest, err := index.Digest()
	return digest.String(), err
}

// imagePrograms gives the binary of each platform, linux/amd64 for instance, of an image that has nothing else.
func imagePrograms(index v1.ImageIndex) (map[string][]byte, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	programs := map[string][]byte{}
	for _, d := range manifest.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return nil, err
		}
		file, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		if d.Platform == nil || file.OS != d.Platform.OS || file.Architecture != d.Platform.Architecture {
			return nil, fmt.Errorf("%s is for %s/%s, and listed for %v", d.Digest, file.OS, file.Architecture, d.Platform)
		}
		files := mutate.Extract(image)
		entries, err := readTar(files)
		if err = errors.Join(err, files.Close()); err != nil {
			return nil, err
		}
		if len(entries) != 1 || entries[0].name != program || entries[0].mode != 0o755 {
			return nil, fmt.Errorf("%s has more than the program, or less", d.Digest)
		}
		programs[d.Platform.OS+"/"+d.Platform.Architecture] = entries[0].data
	}
	return programs, nil
}

func readTar(r io.Reader) ([]entry, error) {
	var all []entry
	files := tar.NewReader(r)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(files)
		if err != nil {
			return nil, err
		}
		all = append(all, entry{header.Name, header.Mode, data})
	}
}

func readTarGz(path string) ([]entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	zip, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	return readTar(zip)
}

// unpack writes the files of a tar archive into a directory, and nowhere else.
func unpack(path, dir string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := readTar(file)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := root.MkdirAll(filepath.Dir(e.name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(e.name, e.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

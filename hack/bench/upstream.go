package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

const (
	registryName = "registry.example.com"
	repository   = "bench/app"
)

// image is an image that the upstream has.
type image struct {
	manifest v1.Descriptor
	blobs    []v1.Descriptor // The configuration, then the layers.
}

func (i image) bytes() int64 {
	total := i.manifest.Size
	for _, b := range i.blobs {
		total += b.Size
	}
	return total
}

// push makes an image and pushes it.
func push(ctx context.Context, up *registrytest.Registry, tag string, seed uint64, layers ...int64) (image, error) {
	img, err := registrytest.NewImage(seed, v1.Platform{OS: "linux", Architecture: "amd64"}, layers...)
	if err != nil {
		return image{}, err
	}
	desc, err := up.Push(ctx, repository+":"+tag, img)
	if err != nil {
		return image{}, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return image{}, err
	}
	return image{manifest: desc, blobs: append([]v1.Descriptor{manifest.Config}, manifest.Layers...)}, nil
}

// source is where an image is pulled from: the upstream itself, or Kioo in its place.
type source struct{ base string }

func direct(up *registrytest.Registry) source {
	return source{"http://" + up.DirectHost() + "/v2/" + repository}
}

// through uses the path form; what containerd does with ns instead ends in the same place.
func through(k *kiootest.Kioo) source {
	return source{k.URL() + "/v2/" + registryName + "/" + repository}
}

func (s source) manifest(d v1.Descriptor) string { return s.base + "/manifests/" + d.Digest.String() }
func (s source) blob(d v1.Descriptor) string     { return s.base + "/blobs/" + d.Digest.String() }

// startKioo runs Kioo with an empty store below dir.
func (b *bench) startKioo(ctx context.Context, dir string, up *registrytest.Registry, adjust func(*config.Config)) (*kiootest.Kioo, error) {
	cfg := kiootest.Config(dir, map[string]string{registryName: "http://" + up.DirectHost()})
	if adjust != nil {
		adjust(cfg)
	}
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		return nil, err
	}
	return kiootest.Start(ctx, b.program, dir, cfg)
}

// stopKioo stops Kioo at the end of a measurement that is done: how it ends is others' test.
func stopKioo(k *kiootest.Kioo) {
	if err := k.Close(); err != nil {
		k.Kill()
	}
}

// waitHeld waits until Kioo holds a blob and returns its file. The last reader has its bytes before they are synced
// to the disk and get their name.
func waitHeld(ctx context.Context, k *kiootest.Kioo, dir string, d v1.Descriptor) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var (
		file string
		err  error
	)
	if waitErr := k.WaitReady(ctx, func() bool { file, err = heldFile(dir, d); return file != "" || err != nil }); waitErr != nil {
		return "", fmt.Errorf("wait until kioo holds %v: %w", d.Digest, waitErr)
	}
	return file, err
}

// heldFile finds the file in which Kioo holds a blob; empty if there is none.
func heldFile(dir string, d v1.Descriptor) (found string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // It was there a moment ago: blobs on their way come and go.
		}
		if err != nil {
			return err
		}
		if entry.Type().IsRegular() && entry.Name() == d.Digest.Hex {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("find the file of %v: %w", d.Digest, err)
	}
	return found, nil
}

// peakRow says how much memory a Kioo has had at most so far.
func peakRow(name string, k *kiootest.Kioo) (row, error) {
	mem, err := process.ReadMemory(k.PID())
	if err != nil {
		return row{}, err
	}
	return row{Name: name + ": peak RSS", Unit: "MiB", Kioo: float64(mem.Peak) / (1 << 20)}, nil
}

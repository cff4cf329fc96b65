package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	checksums = "SHA256SUMS"
	program   = "kioo" // What it is called in archives and in the image.
	licence   = "LICENSE"
)

// name is how a file of the release begins that belongs to a binary.
func (cfg config) name(b binary) string {
	return "kioo-" + cfg.version + "-" + b.system + "-" + b.architecture
}

func (cfg config) archive(b binary) string { return cfg.name(b) + ".tar.gz" }
func (cfg config) sbom(b binary) string    { return cfg.name(b) + ".spdx.json" }
func (cfg config) imageFile() string       { return "kioo-" + cfg.version + "-image.tar" }
func (cfg config) chartFile() string       { return "kioo-" + chartVersion(cfg.version) + ".tgz" }

// files are the names of all that a release has but its checksums.
func (cfg config) files() []string {
	names := []string{cfg.imageFile(), cfg.chartFile()}
	for _, b := range cfg.binaries {
		names = append(names, cfg.archive(b), cfg.sbom(b))
	}
	return names
}

var semver = regexp.MustCompile(`^v?(\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]*)?)$`)

// chartVersion is a version as charts must have it. What git says of a commit without a tag becomes one before all
// others.
func chartVersion(version string) string {
	if m := semver.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return "0.0.0-g" + version
}

// write writes all files of the release.
func (cfg config) write(ctx context.Context) error {
	if entries, err := os.ReadDir(cfg.dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty", cfg.dir)
	}
	if err := os.MkdirAll(cfg.dir, 0o755); err != nil {
		return err
	}
	for _, b := range cfg.binaries {
		if err := cfg.writeArchive(b); err != nil {
			return fmt.Errorf("archive %s: %w", b.path, err)
		}
		if err := cfg.writeSBOM(b); err != nil {
			return fmt.Errorf("list what %s is made of: %w", b.path, err)
		}
	}
	if err := copyFile(filepath.Join(cfg.dir, cfg.imageFile()), cfg.image); err != nil {
		return fmt.Errorf("copy the image: %w", err)
	}
	if err := cfg.writeChart(ctx); err != nil {
		return fmt.Errorf("package the chart: %w", err)
	}
	return cfg.writeChecksums()
}

// entry is a file in an archive.
type entry struct {
	name string
	mode int64
	data []byte
}

// writeTarGz writes an archive that depends on its entries alone.
func writeTarGz(path string, entries []entry) error {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(zip)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func (cfg config) writeArchive(b binary) error {
	binary, err := os.ReadFile(b.path)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(cfg.root, licence))
	if err != nil {
		return err
	}
	return writeTarGz(filepath.Join(cfg.dir, cfg.archive(b)), []entry{{program, 0o755, binary}, {licence, 0o644, text}})
}

// writeChart packages a copy of the chart that names the release's image by digest.
func (cfg config) writeChart(ctx context.Context) error {
	digest, err := imageDigest(cfg.image)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "kioo-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, part := range []string{"charts/kioo", "deploy"} {
		if err := os.CopyFS(filepath.Join(tmp, part), os.DirFS(filepath.Join(cfg.root, part))); err != nil {
			return err
		}
	}
	version := chartVersion(cfg.version)
	for _, args := range [][]string{
		{filepath.Join(cfg.root, "hack/chart-digest.sh"), digest, tmp},
		{cfg.helm, "package", filepath.Join(tmp, "charts/kioo"), "--version", version, "--app-version", cfg.version, "--destination", tmp},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", filepath.Base(args[0]), err, out)
		}
	}
	// Helm writes the time of packaging into each entry.
	entries, err := readTarGz(filepath.Join(tmp, cfg.chartFile()))
	if err != nil {
		return err
	}
	return writeTarGz(filepath.Join(cfg.dir, cfg.chartFile()), entries)
}

// writeChecksums writes what sha256sum --check reads.
func (cfg config) writeChecksums() error {
	sums, err := sumAll(cfg.dir)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, s := range sums {
		fmt.Fprintf(&text, "%s  %s\n", s.sum, s.name)
	}
	return os.WriteFile(filepath.Join(cfg.dir, checksums), []byte(text.String()), 0o644)
}

// sum is a file with its checksum and size.
type sum struct {
	name, sum string
	size      int64
}

// sumAll gives the checksums of all files in a directory but of the checksums themselves, in the order of their names.
func sumAll(dir string) ([]sum, error) {
	var all []sum
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == checksums {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		hash := sha256.New()
		size, err := io.Copy(hash, file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		all = append(all, sum{filepath.ToSlash(rel), fmt.Sprintf("%x", hash.Sum(nil)), size})
		return err
	})
	return all, err
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"go.yaml.in/yaml/v3"
)

// check reads a release back, says what it has, and gives everything that is not as it should be.
func check(ctx context.Context, cfg config, stdout io.Writer) error {
	errs := []error{checkFiles(cfg, stdout)}
	programs := map[string][]byte{}
	for _, b := range cfg.binaries {
		data, err := checkArchive(ctx, cfg, b)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cfg.archive(b), err))
			continue
		}
		programs[b.system+"/"+b.architecture] = data
		if err := checkSBOM(cfg, b, data); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cfg.sbom(b), err))
		}
	}
	if err := checkImage(cfg, programs); err != nil && len(programs) == len(cfg.binaries) {
		errs = append(errs, fmt.Errorf("%s: %w", cfg.imageFile(), err))
	}
	if err := checkChart(cfg); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", cfg.chartFile(), err))
	}
	return errors.Join(errs...)
}

// checkFiles compares what is there with the checksums, and prints it.
func checkFiles(cfg config, stdout io.Writer) error {
	all, err := sumAll(cfg.dir)
	if err != nil {
		return err
	}
	var text strings.Builder
	var names []string
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, s := range all {
		fmt.Fprintf(&text, "%s  %s\n", s.sum, s.name)
		fmt.Fprintf(table, "%s\t%d\t%.12s…\n", s.name, s.size, s.sum)
		names = append(names, s.name)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	listed, err := os.ReadFile(filepath.Join(cfg.dir, checksums))
	if err != nil {
		return err
	}
	if string(listed) != text.String() {
		return fmt.Errorf("%s is not about the files that are there:\n%s", checksums, text.String())
	}
	if want := slices.Sorted(slices.Values(cfg.files())); !slices.Equal(names, want) {
		return fmt.Errorf("the files are %v, want %v", names, want)
	}
	return nil
}

// checkArchive gives the program of an archive that has one for its platform, and the licence.
func checkArchive(ctx context.Context, cfg config, b binary) ([]byte, error) {
	entries, err := readTarGz(filepath.Join(cfg.dir, cfg.archive(b)))
	if err != nil {
		return nil, err
	}
	if len(entries) != 2 || entries[0].name != program || entries[0].mode != 0o755 || entries[1].name != licence || len(entries[1].data) == 0 {
		return nil, errors.New("it has something else than the program and the licence")
	}
	data := entries[0].data
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["GOOS"] != b.system || settings["GOARCH"] != b.architecture || settings["-trimpath"] != "true" {
		return nil, fmt.Errorf("the program was built for %s/%s, -trimpath=%s", settings["GOOS"], settings["GOARCH"], settings["-trimpath"])
	}
	if b.system == "linux" {
		if err := checkStatic(data); err != nil {
			return nil, err
		}
	}
	if b.system == runtime.GOOS && b.architecture == runtime.GOARCH {
		return data, checkVersion(ctx, cfg, data)
	}
	return data, nil
}

// checkStatic refuses a program that needs anything else on the machine.
func checkStatic(data []byte) error {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("the program is linked dynamically: it has %s", p.Type)
		}
	}
	return nil
}

// checkVersion asks a program of this machine's kind what version it is.
func checkVersion(ctx context.Context, cfg config, data []byte) error {
	dir, err := os.MkdirTemp("", "kioo-release-run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, program)
	if err := os.WriteFile(path, data, 0o700); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), cfg.version) {
		return fmt.Errorf("the program says it is %q (%v)", out, err)
	}
	return nil
}

// checkSBOM compares an SBOM with the program that it is about.
func checkSBOM(cfg config, b binary, data []byte) error {
	file, err := os.ReadFile(filepath.Join(cfg.dir, cfg.sbom(b)))
	if err != nil {
		return err
	}
	doc, err := spdxjson.Read(bytes.NewReader(file))
	if err != nil {
		return err
	}
	if doc.SPDXVersion != spdx.Version || len(doc.Packages) == 0 || len(doc.Packages[0].PackageChecksums) != 1 {
		return fmt.Errorf("it is %s, with %d packages", doc.SPDXVersion, len(doc.Packages))
	}
	if got, want := doc.Packages[0].PackageChecksums[0].Value, fmt.Sprintf("%x", sha256.Sum256(data)); got != want {
		return fmt.Errorf("it is about the program %s, not %s", got, want)
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return err
	}
	listed, ids := map[string]bool{}, map[spdx.ElementID]bool{}
	for _, p := range doc.Packages {
		listed[p.PackageName+"@"+p.PackageVersion] = true
		ids[p.PackageSPDXIdentifier] = true
	}
	for _, m := range modules(info) {
		if !listed[m.path+"@"+m.version] {
			return fmt.Errorf("it lacks %s %s", m.path, m.version)
		}
	}
	for _, r := range doc.Relationships {
		delete(ids, r.RefB.ElementRefID)
	}
	if len(ids) > 0 || len(doc.Packages) != len(modules(info))+1 || len(doc.Relationships) != len(doc.Packages) {
		return fmt.Errorf("it has %d packages and %d relationships, want %d; nothing leads to %v",
			len(doc.Packages), len(doc.Relationships), len(modules(info))+1, ids)
	}
	return nil
}

// checkImage compares the image's programs with those of the archives.
func checkImage(cfg config, programs map[string][]byte) error {
	index, done, err := openImage(filepath.Join(cfg.dir, cfg.imageFile()))
	if err != nil {
		return err
	}
	defer done()
	inside, err := imagePrograms(index)
	if err != nil {
		return err
	}
	for platform, data := range inside {
		if !bytes.Equal(data, programs[platform]) {
			return fmt.Errorf("the program for %s is not that of the archive", platform)
		}
	}
	for platform := range programs {
		if strings.HasPrefix(platform, "linux/") && inside[platform] == nil {
			return fmt.Errorf("it has nothing for %s", platform)
		}
	}
	return nil
}

// checkChart looks whether the chart is of this version, and names this image.
func checkChart(cfg config) error {
	digest, err := imageDigest(filepath.Join(cfg.dir, cfg.imageFile()))
	if err != nil {
		return err
	}
	entries, err := readTarGz(filepath.Join(cfg.dir, cfg.chartFile()))
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		files[e.name] = e.data
	}
	var chart struct {
		Name        string
		Version     string
		AppVersion  string `yaml:"appVersion"`
		Annotations map[string]string
	}
	if err := yaml.Unmarshal(files["kioo/Chart.yaml"], &chart); err != nil {
		return err
	}
	if chart.Name != "kioo" || chart.Version != chartVersion(cfg.version) || chart.AppVersion != cfg.version {
		return fmt.Errorf("it is %s %s of %s", chart.Name, chart.Version, chart.AppVersion)
	}
	if got := chart.Annotations["kioo.dev/image-digest"]; got != digest {
		return fmt.Errorf("it names the image %s, which is %s", got, digest)
	}
	for _, name := range []string{"kioo/values.yaml", "kioo/values.schema.json", "kioo/README.md", "kioo/templates/daemonset.yaml"} {
		if len(files[name]) == 0 {
			return fmt.Errorf("it lacks %s", name)
		}
	}
	return nil
}

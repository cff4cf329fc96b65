package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/hack/process"
)

const (
	root    = "../.."
	version = "v1.2.3"
	date    = "2026-11-29T10:00:00+01:00"
)

// source is a program that is as much of Kioo as a release asks: one module beside the standard library, and a version.
const source = `package main

import (
	"os"

	"github.com/opencontainers/go-digest"
)

var version string

func main() { os.Stdout.WriteString(version + " " + digest.SHA256.String() + "\n") }
`

// built is what releases are made of, built once.
type built struct{ dir, helm string }

func build(t *testing.T) built {
	t.Helper()
	b := built{dir: t.TempDir()}
	var err error
	if b.helm, err = process.InstallPinned(t.Context(), root, "helm.sh/helm/v3/cmd/helm"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(b.dir, "src"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "src/main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, architecture := range []string{"amd64", "arm64"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -X main.version="+version, "-o", b.program(architecture),
			filepath.Join(b.dir, "src/main.go"))
		cmd.Dir = root // Within our module, for its versions.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		platforms = append(platforms, "linux/"+architecture+"="+b.program(architecture))
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "./hack/image", "-output", b.image(),
		"-name", "ghcr.io/kioo-dev/kioo:" + version, "-version", version}, platforms...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make the image: %v\n%s", err, out)
	}
	return b
}

func (b built) program(architecture string) string { return filepath.Join(b.dir, architecture) }
func (b built) image() string                      { return filepath.Join(b.dir, "image.tar") }

// args are those of a release.
func (b built) args(output string) []string {
	return []string{"-output", output, "-root", root, "-version", version, "-date", date, "-image", b.image(), "-helm", b.helm,
		"linux/amd64=" + b.program("amd64"), "linux/arm64=" + b.program("arm64")}
}

func TestRelease(t *testing.T) {
	b := build(t)
	dir := filepath.Join(t.TempDir(), "release")
	var printed bytes.Buffer
	if err := run(t.Context(), b.args(dir), &printed); err != nil {
		t.Fatal(err)
	}
	cfg, err := parse(b.args(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("sha256sum reads it", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", checksums)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != len(cfg.files()) {
			t.Errorf("%v\n%s", err, out)
		}
		for _, name := range cfg.files() {
			if !strings.Contains(printed.String(), name) {
				t.Errorf("%s is not in\n%s", name, printed.String())
			}
		}
	})
	t.Run("helm reads it", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), b.helm, "template", "kioo", filepath.Join(dir, "kioo-1.2.3.tgz"), "--kube-version", "1.34.0",
			"--set", "clusterKey.existingSecret=mine")
		out, err := cmd.Output()
		digest, derr := imageDigest(b.image())
		if err = errors.Join(err, derr); err != nil || !strings.Contains(string(out), "image: ghcr.io/kioo-dev/kioo@"+digest) {
			t.Errorf("%v: nothing of %s in what was rendered", err, digest)
		}
	})
	t.Run("an SBOM has what the binary has", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(dir, "kioo-v1.2.3-linux-arm64.spdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"spdxVersion": "SPDX-2.3"`, `"created": "2026-11-29T09:00:00Z"`, `"name": "stdlib"`,
			`pkg:golang/github.com/opencontainers/go-digest@v1.0.0`, `"relationshipType": "DEPENDS_ON"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("it has no %s:\n%s", want, text)
			}
		}
	})
	t.Run("the same bytes again", func(t *testing.T) {
		again := filepath.Join(t.TempDir(), "release")
		if err := run(t.Context(), b.args(again), io.Discard); err != nil {
			t.Fatal(err)
		}
		if one, two := read(t, dir, checksums), read(t, again, checksums); one != two {
			t.Errorf("first\n%s\nthen\n%s", one, two)
		}
	})
	t.Run("not over another", func(t *testing.T) {
		if err := run(t.Context(), b.args(dir), io.Discard); err == nil {
			t.Error("a release was written into one that is there")
		}
	})
	t.Run("what is wrong is found", func(t *testing.T) { testWrong(t, b, dir) })
}

// testWrong spoils a release in one way at a time.
func testWrong(t *testing.T, b built, good string) {
	replace := func(name string, entries ...entry) func(string) error {
		return func(dir string) error { return writeTarGz(filepath.Join(dir, name), entries) }
	}
	text := func(name, from, to string) func(string) error {
		return func(dir string) error {
			data := read(t, dir, name)
			if !strings.Contains(data, from) {
				return fmt.Errorf("%s has no %q", name, from)
			}
			return os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(data, from, to, 1)), 0o600)
		}
	}
	const archive, sbom = "kioo-v1.2.3-linux-amd64.tar.gz", "kioo-v1.2.3-linux-amd64.spdx.json"
	arm, amd := []byte(read(t, b.dir, "arm64")), []byte(read(t, b.dir, "amd64"))
	digest := fmt.Sprintf("%x", sha256.Sum256(amd))
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"a file is gone":               {func(dir string) error { return os.Remove(filepath.Join(dir, sbom)) }, sbom},
		"a file too many":              {func(dir string) error { return os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600) }, "want ["},
		"no licence":                   {replace(archive, entry{program, 0o755, amd}), "something else"},
		"can't be run":                 {replace(archive, entry{program, 0o644, amd}, entry{licence, 0o644, []byte("x")}), "something else"},
		"another architecture":         {replace(archive, entry{program, 0o755, arm}, entry{licence, 0o644, []byte("x")}), "built for linux/arm64"},
		"not built for a release":      {replace(archive, entry{program, 0o755, self}, entry{licence, 0o644, []byte("x")}), "-trimpath="},
		"an SBOM of another program":   {text(sbom, `Value": "`+digest, `Value": "`+strings.Repeat("0", 64)), "about the program 0000"},
		"an SBOM without a module":     {text(sbom, `"name": "github.com/opencontainers/go-digest"`, `"name": "other"`), "lacks github.com/opencontainers/go-digest"},
		"an SBOM with one too many":    {text(sbom, `"SPDXRef-Package-stdlib-`, `"SPDXRef-Package-other-`), "nothing leads to"},
		"a chart of another release":   {replace("kioo-1.2.3.tgz", entry{"kioo/Chart.yaml", 0o644, []byte("name: kioo\nversion: 1.2.2\nappVersion: v1.2.3\n")}), "1.2.2"},
		"a chart with another image":   {replace("kioo-1.2.3.tgz", entry{"kioo/Chart.yaml", 0o644, []byte("name: kioo\nversion: 1.2.3\nappVersion: v1.2.3\n")}), "names the image"},
		"another program in the image": {func(dir string) error { return otherImage(t, b, dir) }, "not that of the archive"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "release")
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			cfg, err := parse(b.args(dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := test.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if err := cfg.writeChecksums(); err != nil { // So that it is not the sum that tells.
				t.Fatal(err)
			}
			if err := check(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("it passes as a release: %v, want %q", err, test.want)
			}
		})
	}
	t.Run("a byte", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "release")
		if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		if err := text(sbom, "SPDXRef-DOCUMENT", "SPDXRef-DOCUMENU")(dir); err != nil {
			t.Fatal(err)
		}
		cfg, err := parse(b.args(dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), checksums) {
			t.Errorf("the checksums do not tell: %v", err)
		}
	})
}

// otherImage writes an image whose programs are those of the other architecture.
func otherImage(t *testing.T, b built, dir string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./hack/image", "-output", filepath.Join(dir, "kioo-v1.2.3-image.tar"),
		"-name", "ghcr.io/kioo-dev/kioo:"+version, "linux/amd64="+b.program("arm64"), "linux/arm64="+b.program("amd64"))
	cmd.Dir = root
	return cmd.Run()
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestStatic has a program that needs a loader; those of TestRelease do not.
func TestStatic(t *testing.T) {
	dynamic, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkStatic(dynamic); err == nil || !strings.Contains(err.Error(), "dynamically") {
		t.Errorf("a shell is static: %v", err)
	}
}

func TestChartVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":             "1.2.3",
		"1.2.3":              "1.2.3",
		"v1.2.3-rc.1":        "1.2.3-rc.1",
		"v1.2.3-4-gabc1234":  "1.2.3-4-gabc1234",
		"9de0707":            "0.0.0-g9de0707",
		"9de0707-dirty":      "0.0.0-g9de0707-dirty",
		"devel":              "0.0.0-gdevel",
		"v1.2.3.4":           "0.0.0-gv1.2.3.4",
		"v1.2.3-rc.1+meta.2": "1.2.3-rc.1+meta.2",
	} {
		if got := chartVersion(version); got != want {
			t.Errorf("chartVersion(%q) = %q, want %q", version, got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	good := []string{"-output", t.TempDir(), "-version", version, "-date", date, "-image", "image.tar"}
	for name, args := range map[string][]string{
		"no binary":   good,
		"no version":  {"-date", date, "-image", "image.tar", "linux/amd64=/bin/true"},
		"no image":    {"-version", version, "-date", date, "linux/amd64=/bin/true"},
		"no date":     {"-version", version, "-image", "image.tar", "linux/amd64=/bin/true"},
		"no platform": append(good, "/bin/true"),
		"no file":     append(good, "linux/amd64=/does/not/exist"),
		"not of Go":   append(good, "linux/amd64=/bin/sh"),
	} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%s: run() took it", name)
		}
	}
}

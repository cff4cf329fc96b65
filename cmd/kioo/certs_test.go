package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// written gives the hosts.toml of a registry's directory, empty if there is none.
func written(t *testing.T, certsDir, registry string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(certsDir, registry, "hosts.toml"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

// must runs a command line that has to succeed, and returns what it prints.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := call(t, args...)
	if code != exitOK || stderr != "" {
		t.Fatalf("kioo %s ends with %d and prints %q, %q", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

func testConfigureConfig(t *testing.T) {
	// The mirror's own flags say what peers.listen lacks, and this command has no business with keys.
	path := file(t, "mirror: {listen: ['0.0.0.0:28999'], allowRemote: true}\n"+
		"containerd: {certsDir: certs.d, registries: [quay.io]}\npeers: {keyFiles: [missing.key]}\n")
	certsDir := filepath.Join(filepath.Dir(path), "certs.d")
	if got, want := must(t, "configure", "--config", path), "written    quay.io\n"; got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if got := written(t, certsDir, "quay.io"); !strings.Contains(got, `"http://127.0.0.1:28999"`) {
		t.Errorf("quay.io's file is %q", got)
	}
	if got := written(t, certsDir, "_default"); got != "" {
		t.Errorf("all other registries have a file too: %q", got)
	}
	code, _, stderr := call(t, "configure", "--config", file(t, "mirror: {listen: ['127.0.0.1:0']}\n"))
	if code != exitFailed || !strings.Contains(stderr, "say with --mirror where the mirror is") {
		t.Errorf("an open port ends with %d and prints %q", code, stderr)
	}
}

func testConfigureCertsDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	if got, want := must(t, "configure", "--certs-dir", dir), "written    _default\n"; got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if got := written(t, dir, "_default"); !strings.Contains(got, `"http://127.0.0.1:28500"`) {
		t.Errorf("the file is %q", got)
	}
	if got, want := must(t, "configure", "--certs-dir", dir), "unchanged  _default\n"; got != want {
		t.Errorf("the second time it prints %q, want %q", got, want)
	}
	code, _, stderr := call(t, "configure", "--certs-dir", "certs.d")
	if code != exitFailed || !strings.Contains(stderr, `"certs.d" is not an absolute path`) {
		t.Errorf("a relative directory ends with %d and prints %q", code, stderr)
	}
}

func testConfigureMirror(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	must(t, "configure", "--certs-dir", dir, "--mirror", "http://[::1]:7")
	if got := written(t, dir, "_default"); !strings.Contains(got, `"http://[::1]:7"`) {
		t.Errorf("the file is %q", got)
	}
	code, _, stderr := call(t, "configure", "--certs-dir", dir, "--mirror", "https://localhost:7")
	if code != exitFailed || !strings.Contains(stderr, "only http:// works") {
		t.Errorf("https ends with %d and prints %q", code, stderr)
	}
}

func testConfigureRegistry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	out := must(t, "configure", "--certs-dir", dir, "--registry", "quay.io", "--registry", "Index.Docker.io")
	if want := "written    docker.io\nwritten    quay.io\n"; out != want {
		t.Errorf("it prints %q, want %q", out, want)
	}
	if out := must(t, "configure", "--certs-dir", dir, "--registry", "quay.io"); out != "removed    docker.io\nunchanged  quay.io\n" {
		t.Errorf("with one less it prints %q", out)
	}
}

// TestConfigureRefuses shows a directory that can't be merged: the others are written, and the status says so.
func TestConfigureRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	if err := os.MkdirAll(filepath.Join(dir, "quay.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "quay.io", "hosts.toml"), []byte("= no TOML"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "configure", "--certs-dir", dir)
	if code != exitFailed || !strings.Contains(stdout, "written    _default\n") || !strings.Contains(stdout, "refused    quay.io") {
		t.Errorf("it ends with %d and prints %q", code, stdout)
	}
	if !strings.Contains(stderr, `configure containerd's registries: registry directory "quay.io": `) {
		t.Errorf("it prints %q, which does not say why", stderr)
	}
}

func testCleanupCertsDir(t *testing.T) {
	dir := t.TempDir()
	const before = "server = \"https://quay.io\" # as it was\n"
	path := filepath.Join(dir, "quay.io", "hosts.toml")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "configure", "--certs-dir", dir)
	if got := written(t, dir, "quay.io"); got == before {
		t.Fatal("nothing was configured")
	}
	if got, want := must(t, "cleanup", "--certs-dir", dir), "removed    _default\nrestored   quay.io\n"; got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if got := written(t, dir, "quay.io"); got != before {
		t.Errorf("the file is %q, want %q", got, before)
	}
	if got, want := must(t, "cleanup", "--certs-dir", dir), "nothing to do\n"; !strings.Contains(got, "unchanged") && got != want {
		t.Errorf("the second time it prints %q", got)
	}
}

func testCleanupConfig(t *testing.T) {
	path := file(t, "containerd: {certsDir: certs.d}\n")
	must(t, "configure", "--config", path)
	if got, want := must(t, "cleanup", "--config", path), "removed    _default\n"; got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if got := written(t, filepath.Join(filepath.Dir(path), "certs.d"), "_default"); got != "" {
		t.Errorf("there still is %q", got)
	}
}

func testCleanupPurge(t *testing.T) {
	path := file(t, "dataDir: data\ncontainerd: {certsDir: certs.d}\n")
	dir := filepath.Join(filepath.Dir(path), "data")
	for _, name := range []string{"cache", "identity", "theirs"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "cleanup", "--config", path)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Fatalf("without the flag there is %v, %v", left, err)
	}
	must(t, "cleanup", "--config", path, "--purge")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "theirs" {
		t.Errorf("left is %v, %v", left, err)
	}
}

func testCleanupStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		go func() {
			ended <- run(ctx, []string{"cleanup", "--certs-dir", dir, "--stay"}, streams{io.Discard, io.Discard})
		}()
		synctest.Wait()
		select {
		case code := <-ended:
			t.Fatalf("it ended with %d", code)
		default:
		}
		stop()
		if code := <-ended; code != exitOK {
			t.Errorf("SIGTERM ended it with %d", code)
		}
	})
}

func TestKey(t *testing.T) {
	first, second := must(t, "key"), must(t, "key")
	if first == second {
		t.Error("two keys are the same")
	}
	for _, k := range []string{first, second} {
		key, err := peer.ParseKey([]byte(k))
		if err != nil || key.String()+"\n" != k {
			t.Errorf("%q is not a key and nothing else: %v", k, err)
		}
	}
}

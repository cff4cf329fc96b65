package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/pkg/hosts"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// findings runs a check and returns its findings as "severity id", and the text of all.
func findings(t *testing.T, args ...string) (code int, ids []string, text string) {
	t.Helper()
	code, stdout, stderr := call(t, append([]string{"check", "-o", "json"}, args...)...)
	var found struct{ Findings []finding }
	if err := json.Unmarshal([]byte(stdout), &found); err != nil {
		t.Fatalf("check prints %q, %q: %v", stdout, stderr, err)
	}
	problems := 0
	for _, f := range found.Findings {
		ids = append(ids, f.Severity+" "+f.ID)
		if f.Severity == "problem" {
			problems++
		}
		if f.What == "" || f.Why == "" {
			t.Errorf("something is missing in %+v", f)
		}
	}
	if (code == exitFailed) != (problems > 0) || code == exitUsage {
		t.Errorf("%d problems end with %d and %q", problems, code, stderr)
	}
	return code, ids, stdout
}

func has(ids []string, id string) bool {
	return slices.ContainsFunc(ids, func(s string) bool { return strings.HasSuffix(s, " "+id) })
}

func testCheckCertsDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	if _, ids, text := findings(t, "--certs-dir", dir); !has(ids, "hosts-missing") || !strings.Contains(text, dir) {
		t.Errorf("without the directory it finds %s", text)
	}
	must(t, "configure", "--certs-dir", dir)
	if _, ids, _ := findings(t, "--certs-dir", dir); has(ids, "hosts-missing") {
		t.Errorf("with the directory it finds %s", ids)
	}
}

func testCheckMirror(t *testing.T) {
	m := newCounting(t)
	if _, ids, _ := findings(t, "--mirror", m.mirror.URL); has(ids, "mirror-silent") {
		t.Errorf("of a mirror that answers it finds %s", ids)
	}
	m.mirror.Close()
	if _, ids, _ := findings(t, "--mirror", m.mirror.URL); !has(ids, "mirror-silent") {
		t.Errorf("of a mirror that is gone it finds %s", ids)
	}
}

func testCheckRegistry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	must(t, "configure", "--certs-dir", dir, "--registry", "quay.io")
	_, one, _ := findings(t, "--certs-dir", dir, "--registry", "quay.io")
	_, two, _ := findings(t, "--certs-dir", dir, "--registry", "quay.io", "--registry", "ghcr.io")
	if slices.Equal(one, two) {
		t.Errorf("a registry without the mirror makes no difference: %s", one)
	}
}

func testCheckConfig(t *testing.T) {
	path := file(t, "containerd: {address: c.sock, configFile: c.toml, certsDir: certs.d, contentDir: content}\n")
	_, _, text := findings(t, "--config", path)
	for _, name := range []string{"c.sock", "c.toml", "certs.d", "content"} {
		if name = filepath.Join(filepath.Dir(path), name); !strings.Contains(text, name) {
			t.Errorf("nothing is found about %s: %s", name, text)
		}
	}
}

func testCheckHostRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/containerd"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d'\n"
	if err := os.WriteFile(filepath.Join(root, "etc/containerd/config.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, ids, out := findings(t, "--host-root", root)
	if has(ids, "config-missing") || !strings.Contains(out, filepath.Join(root, defaultSocket)) {
		t.Errorf("below the root it finds %s", out)
	}
}

func testCheckOutput(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	code, stdout, stderr := call(t, "check", "--certs-dir", dir)
	if code != exitFailed || !strings.HasPrefix(stdout, "problem: ") || !strings.Contains(stdout, "\n  mend: Run: kioo configure\n") {
		t.Errorf("it ends with %d and prints %q", code, stdout)
	}
	if !strings.HasPrefix(stderr, "kioo: found ") || strings.Contains(stdout, " \n") {
		t.Errorf("it prints %q and %q", stdout, stderr)
	}
	if code, _, stderr := call(t, "check", "-o", "yaml"); code != exitUsage || !strings.Contains(stderr, "expected text or json") {
		t.Errorf("-o yaml ends with %d and prints %q", code, stderr)
	}
}

func TestPrintFindings(t *testing.T) {
	found := []hosts.Finding{
		{ID: "a", Severity: hosts.Problem, What: "what", Why: "why", Mend: "write:\n\n[a]\n  b = 1\n"},
		{ID: "b", Severity: hosts.Note, What: "what", Why: "why"},
	}
	var b strings.Builder
	if err := printFindings(&b, found); err != nil {
		t.Fatal(err)
	}
	golden(t, "findings.txt", b.String())
	b.Reset()
	if err := printFindings(&b, nil); err != nil || !strings.HasPrefix(b.String(), "Nothing stands in the way") {
		t.Errorf("of nothing it prints %q, %v", b.String(), err)
	}
}

// counting is the part of a mirror that a check relies on: it answers, and it counts requests for the reserved name.
type counting struct {
	mirror, metrics *httptest.Server
	probes          atomic.Int64
	deaf            atomic.Bool // It does not count.
}

func newCounting(t *testing.T) *counting {
	t.Helper()
	c := new(counting)
	c.mirror = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		if r.URL.Query().Get("ns") == reference.Probe || strings.HasPrefix(r.URL.Path, "/v2/"+reference.Probe+"/") {
			c.probes.Add(1)
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(c.mirror.Close)
	c.metrics = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := c.probes.Load()
		if c.deaf.Load() {
			n = 0
		}
		fmt.Fprintf(w, "# TYPE %[1]s counter\n%[1]s %[2]d\n", probeCounter, n)
	}))
	t.Cleanup(c.metrics.Close)
	return c
}

// file writes a configuration of this mirror and that containerd.
func (c *counting) file(t *testing.T, dir string, more string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kioo.yaml")
	text := fmt.Sprintf("apiVersion: kioo.dev/v1alpha1\nkind: MirrorConfiguration\nmirror: {listen: ['%s']}\n"+
		"metrics: {listen: '%s'}\ncontainerd: {address: %s/containerd.sock, configFile: %[3]s/config.toml, certsDir: %[3]s/certs.d%s}\n",
		c.mirror.Listener.Addr(), c.metrics.Listener.Addr(), dir, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// containerdIn runs a containerd whose files are all below dir.
func containerdIn(t *testing.T, version containerdtest.Version) (dir string, runtime *containerdtest.Containerd) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kioo-check-") // A socket's path must be short.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir, containerdtest.New(t, containerdtest.Config{Version: version, Dir: dir, CertsDir: filepath.Join(dir, "certs.d")})
}

// TestCheckPull checks real containerds that pull from a mirror, and that do not.
func TestCheckPull(t *testing.T) {
	for _, version := range containerdtest.Versions() {
		t.Run(string(version), func(t *testing.T) {
			m := newCounting(t)
			dir, _ := containerdIn(t, version)
			all, some := m.file(t, dir, ""), m.file(t, dir, ", registries: [registry.invalid]")
			if _, ids, text := findings(t, "--config", all); !has(ids, "pull-missed-mirror") {
				t.Errorf("before it is configured: %s", text)
			}
			for _, path := range []string{all, some} {
				must(t, "configure", "--config", path)
				before := m.probes.Load()
				if code, _, text := findings(t, "--config", path); code != exitOK {
					t.Errorf("when it is configured: %s", text)
				}
				if m.probes.Load() == before {
					t.Error("the mirror was not asked")
				}
			}
			if _, ids, text := findings(t, "--config", all); !has(ids, "pull-missed-mirror") {
				t.Errorf("of registries that do not go through the mirror: %s", text)
			}
			m.deaf.Store(true)
			if _, ids, text := findings(t, "--config", some); !has(ids, "pull-missed-mirror") {
				t.Errorf("when the mirror hears nothing: %s", text)
			}
			m.metrics.Close()
			if _, ids, _ := findings(t, "--config", some); !slices.Contains(ids, "warning pull-not-tried") || has(ids, "pull-missed-mirror") {
				t.Errorf("when the metrics are gone: %s", ids)
			}
		})
	}
}

func testCheckPull(t *testing.T) {
	m := newCounting(t)
	dir, runtime := containerdIn(t, containerdtest.V2)
	path := m.file(t, dir, "")
	must(t, "configure", "--config", path)
	if code, ids, _ := findings(t, "--config", path, "--pull=false"); code != exitOK || m.probes.Load() != 0 {
		t.Errorf("without the pull it finds %s, and asked the mirror %d times", ids, m.probes.Load())
	}
	if err := runtime.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := runtime.Resume(); err != nil {
			t.Error(err)
		}
	}()
	if _, ids, text := findings(t, "--config", path); !slices.Contains(ids, "problem containerd-silent") || m.probes.Load() != 0 {
		t.Errorf("of a containerd that hangs it finds %s", text)
	}
}

func TestReadCounter(t *testing.T) {
	tests := map[string]struct {
		text  string
		want  uint64
		wrong string
	}{
		"plain":    {"# HELP c c\n# TYPE c counter\nc 3\n", 3, ""},
		"large":    {"c 1.234e+06\n", 1_234_000, ""},
		"prefix":   {"c_total 9\nc 1\n", 1, ""},
		"missing":  {"c_total 9\n", 0, "no c there"},
		"nonsense": {"c many\n", 0, "not a count"},
		"negative": {"c -1\n", 0, "not a count"},
		"NaN":      {"c NaN\n", 0, "not a count"},
		"long":     {strings.Repeat("x", 1<<20), 0, "token too long"},
	}
	for name, tt := range tests {
		got, err := readCounter(strings.NewReader(tt.text), "c")
		if got != tt.want || (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/prefetch"
)

// configured writes a configuration that says all of itself.
func configured(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kioo.yaml")
	text = "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n" + text
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func testExplainConfig(t *testing.T) {
	docker := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(docker, []byte(`{"auths":{"cache.example.com":{"username":"ann","password":"s3cret"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	path := configured(t, `
containerd: {address: /run/containerd/containerd.sock}
credentials: {dockerConfig: `+docker+`}
peers: {keyFiles: [missing.key]}
registries:
  - match: quay.io/org/*
    endpoints:
      - {url: "https://cache.example.com", repository: "quay/{repository}", sendNamespace: true}
      - {url: "https://quay.io"}
  - {match: secret.example.com, action: deny}
`)
	code, out, errs := call(t, "explain", "--config", path, "quay.io/org/app", "secret.example.com/a:v1")
	if code != exitOK || errs != "" {
		t.Fatalf("explain ends with %d and says %s", code, errs)
	}
	golden(t, "explain.txt", strings.ReplaceAll(out, docker, "config.json"))
	if strings.Contains(out, "s3cret") {
		t.Error("a secret is printed")
	}
}

func testExplainOutput(t *testing.T) {
	code, out, _ := call(t, "explain", "nginx:1.27", "-o", "json")
	var plans []policy.Plan
	if err := json.Unmarshal([]byte(out), &plans); err != nil || code != exitOK || len(plans) != 1 || plans[0].Reference != "docker.io/library/nginx:1.27" {
		t.Errorf("explain -o json ends with %d and prints %s: %v", code, out, err)
	}
	for line, want := range map[string]string{
		"explain":                    "needs an image",
		"explain A:B:C":              "reference",
		"explain nginx -o yaml":      "--output",
		"refresh":                    "needs an image",
		"prefetch":                   "needs an image",
		"prefetch nginx --copies":    "needs an argument",
		"prefetch nginx --copies -1": "--copies",
	} {
		if code, _, errs := call(t, strings.Fields(line)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("kioo %s ends with %d and says %s", line, code, errs)
		}
	}
}

// servedWith starts a mirror with a registry of one image, and gives the configuration that both it and a client of it
// can read.
func servedWith(t *testing.T, handler http.Handler) (path string) {
	t.Helper()
	upstream := httptest.NewServer(handler)
	t.Cleanup(upstream.Close)
	path = file(t, "dataDir: data\nmirror: {listen: ['127.0.0.1:0']}\nlog: {format: json}\n"+
		"registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\nupstream: {attempts: 1}\n")
	serveNow(t, "--config", path)
	return path
}

// orders listens where a mirror takes orders that has the directory that is given back.
func orders(t *testing.T, handler http.HandlerFunc) (dataDir string) {
	t.Helper()
	dataDir = t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dataDir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mirror := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	mirror.Start()
	t.Cleanup(mirror.Close)
	return dataDir
}

// testControlDataDir has the commands find the mirror by its directory alone.
func testControlDataDir(t *testing.T) {
	var asked []string
	dir := orders(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		_, _ = w.Write([]byte(`{"node":"a","image":"x","done":true}` + "\n"))
	})
	for _, command := range []string{"refresh", "prefetch"} {
		if code, _, errs := call(t, command, "--data-dir", dir, "nginx"); code != exitOK {
			t.Errorf("%s ends with %d and says %s", command, code, errs)
		}
	}
	if want := []string{"POST " + daemon.RefreshPath, "POST " + daemon.PrefetchPath}; !slices.Equal(asked, want) {
		t.Errorf("the mirror was asked %q", asked)
	}
	left := filepath.Join(t.TempDir(), "control.sock") // Of one that was killed.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, dir := range []string{t.TempDir(), filepath.Dir(left)} {
		if code, _, errs := call(t, "refresh", "--data-dir", dir, "nginx"); code != exitFailed || !strings.Contains(errs, "no mirror takes orders at "+dir) {
			t.Errorf("without a mirror it ends with %d and says %s", code, errs)
		}
	}
}

func testRefreshConfig(t *testing.T) {
	path := servedWith(t, http.NotFoundHandler())
	code, out, errs := call(t, "refresh", "--config", path, "quay.io/org/app:main")
	if code != exitOK || out != "quay.io/org/app:main: forgotten here and by 0 other members\n" {
		t.Errorf("refresh ends with %d and prints %s%s", code, out, errs)
	}
	digest := "quay.io/org/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if code, _, errs := call(t, "refresh", "--config", path, digest); code != exitFailed || !strings.Contains(errs, "never changes") {
		t.Errorf("refresh by digest ends with %d and says %s", code, errs)
	}
	if code, _, errs := call(t, "refresh", "--config", file(t, "dataDir: data\n"), "nginx"); code != exitFailed || !strings.Contains(errs, "no mirror takes orders") {
		t.Errorf("refresh without a mirror ends with %d and says %s", code, errs)
	}
}

func testPrefetchConfig(t *testing.T) {
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`
	path := servedWith(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte(manifest))
	}))
	code, out, errs := call(t, "prefetch", "--config", path, "quay.io/org/app:v1")
	if code != exitOK || !strings.Contains(out, "quay.io/org/app:v1 on this node: sha256:") || !strings.Contains(out, "images on nodes: 1, failed: 0") {
		t.Errorf("prefetch ends with %d and prints %s%s", code, out, errs)
	}
	code, out, errs = call(t, "prefetch", "--config", path, "quay.io/org/app:v1", "quay.io/org/app:missing")
	if code != exitFailed || !strings.Contains(out, "failed: 1") || !strings.Contains(errs, "1 of 2 could not") {
		t.Errorf("prefetch ends with %d and prints %s%s", code, out, errs)
	}
}

// testPrefetchChoice has a stand-in for the mirror look at what it is asked. What comes of that is daemon's to test.
func testPrefetchChoice(t *testing.T) {
	var asked url.Values
	path := configured(t, "dataDir: "+orders(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		_, _ = w.Write([]byte(`{"node":"a","image":"x","done":true}` + "\n"))
	})+"\n")
	if code, _, errs := call(t, "prefetch", "--config", path, "--zone", "a", "--zone", "b", "--copies", "3", "--this-node", "nginx", "redis"); code != exitOK {
		t.Fatalf("prefetch ends with %d and says %s", code, errs)
	}
	want := url.Values{"image": {"nginx", "redis"}, "zone": {"a", "b"}, "copies": {"3"}, "here": {"1"}}
	if asked.Encode() != want.Encode() {
		t.Errorf("the mirror was asked %s, want %s", asked.Encode(), want.Encode())
	}
}

func TestBar(t *testing.T) {
	state := map[string]prefetch.Progress{"a": {Bytes: 3 << 20, Total: 4 << 20, Done: true}, "b": {Total: 2 << 20}}
	if got, want := bar(state), "[===============               ] 1 of 2 done, 3Mi of 6Mi  "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPrefetchBreaksOff(t *testing.T) {
	path := configured(t, "dataDir: "+orders(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"node":"a","image":"x","bytes":1048576,"total":2097152}` + "\n"))
	})+"\n")
	if code, _, errs := call(t, "prefetch", "--config", path, "nginx"); code != exitFailed || !strings.Contains(errs, "broke off") {
		t.Errorf("a mirror that breaks off ends prefetch with %d: %s", code, errs)
	}
}

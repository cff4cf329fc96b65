package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func mustAddrPort(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// hold puts a blob into the cache of a data directory, as a file below its digest.
func hold(t *testing.T, dataDir string, dgst digest.Digest, content string) string {
	t.Helper()
	dir := filepath.Join(dataDir, "cache", "blobs", dgst.Algorithm().String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, dgst.Encoded())
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func testVerifyDataDir(t *testing.T) {
	dir := t.TempDir()
	good := hold(t, dir, digest.FromString("right"), "right")
	code, stdout, stderr := call(t, "verify", "--data-dir", dir)
	if code != exitOK || stdout != "blobs checked: 1 (5 bytes), dropped: 0, on their way: 0\n" || stderr != "" {
		t.Fatalf("a good cache ends with %d and prints %q, %q", code, stdout, stderr)
	}
	bad := hold(t, dir, digest.FromString("other"), "wrong")
	code, stdout, stderr = call(t, "verify", "--data-dir", dir)
	if code != exitFailed || !strings.HasPrefix(stdout, "dropped "+digest.FromString("other").String()+" (5 bytes): ") {
		t.Errorf("a bad blob ends with %d and prints %q", code, stdout)
	}
	if want := "kioo: dropped 1 of 2 blobs, which did not match their digests\n"; stderr != want {
		t.Errorf("a bad blob prints %q, want %q", stderr, want)
	}
	if _, err := os.Stat(bad); err == nil {
		t.Error("the bad blob is still there")
	}
	if _, err := os.Stat(good); err != nil {
		t.Errorf("the good blob is gone: %v", err)
	}
	if code, _, _ = call(t, "verify", "--data-dir", dir); code != exitOK {
		t.Errorf("the second run ends with %d", code)
	}
	code, stdout, stderr = call(t, "verify", "--data-dir", filepath.Join(dir, "mistyped"))
	if code != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "kioo: find the cache: ") {
		t.Errorf("a missing cache ends with %d and prints %q, %q", code, stdout, stderr)
	}
}

func testVerifyConfig(t *testing.T) {
	path := file(t, "dataDir: below\n")
	hold(t, filepath.Join(filepath.Dir(path), "below"), digest.FromString("right"), "right")
	code, stdout, stderr := call(t, "verify", "--config", path)
	if code != exitOK || !strings.HasPrefix(stdout, "blobs checked: 1 ") {
		t.Errorf("the configured cache ends with %d and prints %q, %q", code, stdout, stderr)
	}
}

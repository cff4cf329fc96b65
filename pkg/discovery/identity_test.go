package discovery

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIdentityLasts(t *testing.T) {
	dir := t.TempDir()
	first, err := loadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, identityFile)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("identity has mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := loadIdentity(dir)
	if err != nil || !again.Equals(first) {
		t.Errorf("the next start has another identity: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("identity is left open to others: %v, %v", info.Mode(), err)
	}
	for _, broken := range []string{"", "no PEM", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		fresh, err := loadIdentity(dir)
		if err != nil || fresh.Equals(first) {
			t.Errorf("broken file %q: %v", broken, err)
		}
		if kept, err := loadIdentity(dir); err != nil || !kept.Equals(fresh) {
			t.Errorf("broken file %q was not replaced: %v", broken, err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("files left over: %v, %v", files, err)
	}
}

func TestIdentityWithoutDirectory(t *testing.T) {
	priv, err := loadIdentity(filepath.Join(t.TempDir(), "missing"))
	if err == nil || priv == nil {
		t.Errorf("identity that can't be kept: %v, %v", priv, err)
	}
	if priv, err := loadIdentity(""); err != nil || priv == nil {
		t.Errorf("identity that need not be kept: %v, %v", priv, err)
	}
	// A file that can't be read, as it is a directory.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, identityFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if priv, err := loadIdentity(dir); err == nil || priv == nil {
		t.Errorf("identity that can't be read: %v, %v", priv, err)
	}
}

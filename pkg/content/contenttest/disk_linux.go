package contenttest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// SmallDisk mounts a file system of 8 MiB for the length of a test. That needs root: the test is skipped without it,
// but not where root runs CI.
func SmallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=700")
	if errors.Is(err, fs.ErrPermission) && (os.Getenv("CI") != "true" || os.Geteuid() != 0) {
		t.Skipf("only root can mount a small disk: %v", err)
	}
	if err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// Fill takes what a disk has left, but for some bytes, and gives the file that has it.
func Fill(t *testing.T, disk string, but int) string {
	t.Helper()
	var stat syscall.Statfs_t
	if err := syscall.Statfs(disk, &stat); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(disk, "others")
	if err := os.WriteFile(path, make([]byte, int(stat.Bavail)*int(stat.Bsize)-but), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

package atomicfile_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kioo-dev/kioo/pkg/atomicfile"
)

// holds compares a file's text, and the names in its directory.
func holds(t *testing.T, path, want string, names ...string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != want {
		t.Errorf("the file holds %q, %v, want %q", data, err, want)
	}
	if got := list(t, filepath.Dir(path)); !slices.Equal(got, names) {
		t.Errorf("beside it there are %v, want %v", got, names)
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// halfWritten leaves what a crash in the middle of a Write leaves, open to all as nothing of ours is.
func halfWritten(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte("half of it, and longer than what comes next"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"first", "", "second"} {
		if err := atomicfile.Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		holds(t, path, text, "file")
	}
	halfWritten(t, path)
	holds(t, path, "second", "file", "file.new")
	if err := atomicfile.Write(path, []byte("third")); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "third", "file")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
}

// TestWriteFails has a directory in the file's place, and then one in the place of what is being written.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.MkdirAll(filepath.Join(path, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("text")); err == nil {
		t.Error("a directory was replaced")
	}
	if got := list(t, dir); !slices.Equal(got, []string{"file"}) {
		t.Errorf("there are %v now", got)
	}
	other := filepath.Join(dir, "other")
	if err := atomicfile.Write(other, []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(other+".new", "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(other, []byte("text")); err == nil {
		t.Error("written through a directory")
	}
	holds(t, other, "kept", "file", "other", "other.new")
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := atomicfile.Remove(path); err != nil {
		t.Errorf("of what is not there: %v", err)
	}
	halfWritten(t, path)
	if err := atomicfile.Remove(path); err != nil || list(t, dir) != nil {
		t.Errorf("of half a file: %v, %v", err, list(t, dir))
	}
	if err := atomicfile.Write(path, nil); err != nil {
		t.Fatal(err)
	}
	halfWritten(t, path)
	if err := atomicfile.Remove(path); err != nil || list(t, dir) != nil {
		t.Errorf("of both: %v, %v", err, list(t, dir))
	}
}

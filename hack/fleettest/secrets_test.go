package fleettest

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/kioo-dev/kioo/hack/fleet"
)

// text is what a node's status server says.
func text(t *testing.T, n *fleet.Node, path string) string {
	t.Helper()
	resp, err := n.Get(t.Context(), "http://"+fleet.MetricsAddr+path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// verify is what kioo verify prints on a node.
func verify(t *testing.T, n *fleet.Node) string {
	t.Helper()
	out, err := n.Output(t.Context(), n.Program, "verify", "--config", n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// filesBelow reads everything in a directory.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // It was evicted meanwhile.
		}
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("%s is empty", dir)
	}
	return files
}

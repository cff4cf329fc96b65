// Package mutate builds Kioo without one of its defences, so that an attack can show that it is this one which keeps
// it from succeeding.
//
// A defence is taken out of the source by Go's -overlay: nothing in the tree changes, and the product has no switches
// that turn defences off. Which defences there are, and which attack belongs to which, its users know.
package mutate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ErrStale says that a mutation does not fit the source any more: what it takes out is not there, or is there twice.
var ErrStale = errors.New("mutation does not fit the source")

// Edit replaces a piece of a file, which must be in it exactly once.
type Edit struct {
	// File is the file, from the repository's root.
	File string
	Old  string
	New  string
}

// Mutation takes one defence out.
type Mutation struct {
	// Name says which, in words: "only the registry's own origin opens".
	Name string
	// Edits are what that takes.
	Edits []Edit
}

// Root gives the directory of this module's source.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// Apply gives the changed files, by their names from the root.
func (m Mutation) Apply(root string) (map[string][]byte, error) {
	if len(m.Edits) == 0 {
		return nil, fmt.Errorf("%q: no edits: %w", m.Name, ErrStale)
	}
	changed := map[string][]byte{}
	for i, e := range m.Edits {
		body, ok := changed[e.File]
		if !ok {
			var err error
			if body, err = os.ReadFile(filepath.Join(root, e.File)); err != nil {
				return nil, fmt.Errorf("%q: %w: %w", m.Name, ErrStale, err)
			}
		}
		if n := bytes.Count(body, []byte(e.Old)); n != 1 || e.Old == "" || e.Old == e.New {
			return nil, fmt.Errorf("%q: edit %d: %s has %q %d times, and not once: %w", m.Name, i+1, e.File, e.Old, n, ErrStale)
		}
		changed[e.File] = bytes.Replace(body, []byte(e.Old), []byte(e.New), 1)
	}
	return changed, nil
}

// Build builds a program of the module, such as "./cmd/kioo", with the mutation, as a file in dir.
func (m Mutation) Build(ctx context.Context, root, dir, pkg string) (program string, err error) {
	return m.compile(ctx, root, dir, pkg, "build")
}

// Test builds the tests of a package, with the mutation, as a file in dir.
func (m Mutation) Test(ctx context.Context, root, dir, pkg string) (program string, err error) {
	return m.compile(ctx, root, dir, pkg, "test", "-c")
}

func (m Mutation) compile(ctx context.Context, root, dir, pkg string, how ...string) (program string, err error) {
	changed, err := m.Apply(root)
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, "mutation-")
	if err != nil {
		return "", err
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for file, body := range changed {
		name := filepath.Join(tmp, strconv.Itoa(len(overlay["Replace"]))+".go")
		if err := os.WriteFile(name, body, 0o600); err != nil {
			return "", err
		}
		overlay["Replace"][filepath.Join(root, file)] = name
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		return "", err
	}
	program = filepath.Join(tmp, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", append(how, "-overlay", list, "-o", program, pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s without %q: %w\n%s", pkg, m.Name, err, out)
	}
	return program, nil
}

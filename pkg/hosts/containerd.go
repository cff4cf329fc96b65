package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Where containerd's configuration has what concerns registries.
const (
	sectionV2 = "io.containerd.grpc.v1.cri"    // Files of version 2: containerd 1.x, and 2.x that migrates it.
	sectionV3 = "io.containerd.cri.v1.images"  // Files of version 3 and 4: containerd 2.x.
	sectionV4 = "io.containerd.server.v1.grpc" // The socket's address in files of version 4.
	maxFiles  = 256                            // Of imports; containerd has no limit, mistakes with globs do.
)

// version is containerd's, as far as it matters; the zero value is an unknown one.
type version struct{ major, minor int }

func parseVersion(s string) (version, error) {
	if s == "" {
		return version{}, nil
	}
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	if len(parts) >= 2 {
		major, err1 := strconv.Atoi(parts[0])
		minor, err2 := strconv.Atoi(parts[1])
		if err1 == nil && err2 == nil && major > 0 && minor >= 0 {
			return version{major, minor}, nil
		}
	}
	return version{}, fmt.Errorf("containerd's version %q: want one like 1.7.35 or v2.4.2", s)
}

func (v version) known() bool { return v.major > 0 }

// before says that the version is known and older.
func (v version) before(major, minor int) bool {
	return v.known() && (v.major < major || v.major == major && v.minor < minor)
}

// tree is a TOML table.
type tree = map[string]any

// layer is one file of containerd's configuration: the one it is started with, or one that is imported.
type layer struct {
	path    string
	version int
	tree    tree
}

// settings is what matters here of containerd's configuration.
type settings struct {
	found         bool // The file is there and could be read.
	fileVersion   int
	socket, root  string
	disabled      []string
	images        tree // The section about images, as containerd uses it.
	misplaced     bool // There is a section of version 2 in a file of a later version.
	importsDiffer bool // Containerd 1.x and 2.x merge the imported files into different values.
}

// loadContainerd reads containerd's configuration with all that it imports, in containerd's order.
func (c *checker) loadContainerd() ([]layer, error) {
	pending := []string{filepath.Clean(c.cfg.ContainerdConfig)}
	loaded := map[string]bool{}
	var layers []layer
	for len(pending) > 0 {
		path := pending[0]
		pending = pending[1:]
		if loaded[path] {
			continue
		}
		loaded[path] = true
		if len(loaded) > maxFiles {
			return nil, fmt.Errorf("containerd's configuration imports more than %d files", maxFiles)
		}
		f, err := readFile(c.onHost(path))
		if err == nil && !f.Present {
			err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		if err != nil {
			return nil, err
		}
		l := layer{path: path, tree: tree{}}
		if err := toml.Unmarshal(f.Data, &l.tree); err != nil {
			return nil, fmt.Errorf("%s is not valid TOML: %w", path, err)
		}
		v, _ := l.tree["version"].(int64)
		l.version = int(v)
		if l.version == 0 && len(layers) > 0 {
			l.version = layers[0].version
		}
		imports, err := c.imports(l)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
		pending = append(pending, imports...)
	}
	return layers, nil
}

// imports gives the paths that a file imports. They are the node's: a pattern is matched there.
func (c *checker) imports(l layer) ([]string, error) {
	list, err := stringList(l.tree["imports"])
	if err != nil {
		return nil, fmt.Errorf("imports of %s: %w", l.path, err)
	}
	var out []string
	for _, path := range list {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(l.path), path)
		}
		path = filepath.Clean(path)
		if !strings.Contains(path, "*") {
			out = append(out, path)
			continue
		}
		matches, err := filepath.Glob(c.onHost(path))
		if err != nil {
			return nil, fmt.Errorf("imports of %s: %w", l.path, err)
		}
		for _, m := range matches {
			out = append(out, filepath.Join("/", strings.TrimPrefix(m, filepath.Clean("/"+c.cfg.HostRoot))))
		}
	}
	return out, nil
}

// readSettings reads containerd's configuration and turns what can't be read into findings.
func (c *checker) readSettings() settings {
	s := settings{socket: defaultSocket, root: defaultStateRoot, images: tree{}}
	layers, err := c.loadContainerd()
	switch {
	case errors.Is(err, os.ErrNotExist):
		c.add("config-missing", Warning, fmt.Sprintf("containerd's configuration can't be found: %v", err),
			"It is taken that containerd runs with what is built in.",
			"Name the file that containerd is started with, or mount it, or write it.")
		return s
	case err != nil:
		c.add("config-unreadable", Problem, fmt.Sprintf("containerd's configuration can't be read: %v", err),
			"Neither can containerd start with it, nor can Kioo tell whether the mirror is used.",
			"Correct the file.")
		return s
	}
	s.found = true
	s.fileVersion = layers[0].version
	for _, l := range layers {
		if root, _ := l.tree["root"].(string); root != "" {
			s.root = root
		}
		if address := text(l.tree, "grpc", "address"); address != "" {
			s.socket = address
		}
		if address := text(l.tree, "plugins", sectionV4, "address"); address != "" {
			s.socket = address
		}
		disabled, _ := stringList(l.tree["disabled_plugins"])
		s.disabled = append(s.disabled, disabled...)
	}
	replaced, merged := images(layers, c.version, true), images(layers, c.version, false)
	s.images = merged
	if c.version.before(2, 0) {
		s.images = replaced
	}
	s.importsDiffer = !c.version.known() &&
		text(replaced, "registry", "config_path") != text(merged, "registry", "config_path")
	s.misplaced = s.fileVersion >= 3 && text(section(layers, sectionV2, false), "registry", "config_path") != ""
	return s
}

// images gives the section about images in the form of version 3. Containerd 1.x knows the old section only; 2.x
// lets the old one of a version-2 file win over the new one. replace is how 1.x takes imports: section by section.
func images(layers []layer, v version, replace bool) tree {
	out := tree{}
	fileVersion := layers[0].version
	if !v.before(2, 0) {
		out = section(layers, sectionV3, replace)
	}
	if fileVersion >= 3 && !v.before(2, 0) {
		return out
	}
	old := section(layers, sectionV2, replace)
	if fileVersion < 2 {
		old = section(layers, "cri", replace)
	}
	for _, key := range []string{"registry", "max_concurrent_downloads", "image_pull_with_sync_fs"} {
		if value, ok := old[key]; ok {
			out[key] = value
		}
	}
	for _, key := range []string{"discard_unpacked_layers", "disable_snapshot_annotations"} {
		if value, ok := sub(old, "containerd")[key]; ok {
			out[key] = value
		}
	}
	return out
}

// section gives a plugin's section of all files together.
func section(layers []layer, id string, replace bool) tree {
	out := tree{}
	for _, l := range layers {
		t := sub(l.tree, "plugins", id)
		if t == nil {
			continue
		}
		if replace {
			out = maps.Clone(t)
			continue
		}
		out = overlay(out, t)
	}
	return out
}

// overlay merges two tables, those within them too. The second wins.
func overlay(base, over tree) tree {
	out := maps.Clone(base)
	for key, value := range over {
		inner, ok := value.(tree)
		below, both := out[key].(tree)
		if ok && both {
			value = overlay(below, inner)
		}
		out[key] = value
	}
	return out
}

// sub gives a table within tables, or nil.
func sub(t tree, path ...string) tree {
	for _, key := range path {
		t, _ = t[key].(tree)
	}
	return t
}

// text gives a string within tables, or an empty one.
func text(t tree, path ...string) string {
	last := len(path) - 1
	s, _ := sub(t, path[:last]...)[path[last]].(string)
	return s
}

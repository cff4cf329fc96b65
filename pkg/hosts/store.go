package hosts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// storeDir is the directory below the root that says what was there before. No registry can have this name.
	storeDir = ".kioo"

	// createdName is the file that says that the root itself is ours.
	createdName = "root-created"

	recordSuffix  = ".json"
	recordVersion = 1

	// maxHistory bounds how many of our own versions of a file are known again. More than one matters only between
	// a change of the mirror's address and the next completed pass.
	maxHistory = 8

	// maxRecord bounds a record: a file in base64 and a little more.
	maxRecord = 2*maxFile + 64<<10
)

// record is what is known of one directory. It is on the disk before anything is changed there, so that a pass
// which was cut short at any point can be completed or undone.
type record struct {
	Version int `json:"version"`
	// Original is the hosts.toml that comes back: what was found at first, or what its editors made of it since,
	// without our entry.
	Original file `json:"original"`
	// Written are the SHA-256 of what we wrote, newest last.
	Written []string `json:"written"`
	// Mirrors are the addresses that we wrote, newest last.
	Mirrors []string `json:"mirrors"`
	// CreatedDir says that the directory was not there before.
	CreatedDir bool `json:"createdDir"`
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// ours says that a file is exactly what we wrote.
func (r *record) ours(f file) bool {
	return r != nil && f.Present && f.Link == "" && slices.Contains(r.Written, hash(f.Data))
}

// same says that two files are the same, to their bytes and links.
func (f file) same(g file) bool {
	return f.Present == g.Present && f.Link == g.Link && string(f.Data) == string(g.Data)
}

// next gives the record to have before data is written.
func (r *record) next(original file, data []byte, mirror string, createdDir bool) *record {
	n := &record{Version: recordVersion, Original: original, CreatedDir: createdDir}
	if r != nil {
		n.Written, n.Mirrors = slices.Clone(r.Written), slices.Clone(r.Mirrors)
	}
	n.Written = latest(n.Written, hash(data))
	n.Mirrors = latest(n.Mirrors, mirror)
	return n
}

// latest puts s at the end of a list without repetitions.
func latest(list []string, s string) []string {
	list = append(slices.DeleteFunc(list, func(x string) bool { return x == s }), s)
	return list[max(0, len(list)-maxHistory):]
}

// store keeps the records of one root.
type store struct {
	root string
	disk disk
}

func (s store) dir() string { return filepath.Join(s.root, storeDir) }

func (s store) path(name string) string { return filepath.Join(s.dir(), name+recordSuffix) }

// load gives a directory's record, or nil if there is none.
func (s store) load(name string) (*record, error) {
	info, err := os.Stat(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return nil, fmt.Errorf("read the record %s: not a file of at most %d bytes", s.path(name), maxRecord)
	}
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		return nil, fmt.Errorf("read the record: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read the record %s: %w", s.path(name), err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("the record %s has version %d: a newer Kioo wrote it", s.path(name), r.Version)
	}
	return &r, nil
}

func (s store) save(name string, r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := s.disk.write(s.path(name), append(data, '\n'), file{}); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

func (s store) drop(name string) error {
	if err := s.disk.remove(s.path(name)); err != nil {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// names gives the directories that have a record, sorted.
func (s store) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), recordSuffix); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, nil
}

// prepare makes the root and the records' directory. A root that is missing appears complete, with the mark that it
// is ours, so that no crash can make it look like somebody else's. Its parent must be there: where it is not, the
// path is wrong or not mounted, and a file that containerd never sees would help nobody.
func (s store) prepare() error {
	if _, err := os.Stat(s.root); errors.Is(err, fs.ErrNotExist) {
		tmp := temp(s.root)
		if err := s.discard(tmp); err != nil {
			return err
		}
		if err := s.disk.mkdir(tmp); err != nil {
			return fmt.Errorf("create the registry directory: %w", err)
		}
		inner := store{root: tmp, disk: s.disk}
		if err := s.disk.mkdir(inner.dir()); err != nil {
			return fmt.Errorf("create the registry directory: %w", err)
		}
		if err := s.disk.write(filepath.Join(inner.dir(), createdName), nil, file{}); err != nil {
			return fmt.Errorf("create the registry directory: %w", err)
		}
		if err := s.disk.rename(tmp, s.root); err != nil {
			return fmt.Errorf("create the registry directory: %w", err)
		}
		return nil
	}
	if _, err := os.Stat(s.dir()); errors.Is(err, fs.ErrNotExist) {
		if err := s.disk.mkdir(s.dir()); err != nil {
			return fmt.Errorf("create the records' directory: %w", err)
		}
	}
	return nil
}

// discard removes a root that was being made or unmade when the process ended. It only ever holds our own files.
func (s store) discard(tmp string) error {
	inner := filepath.Join(tmp, storeDir)
	entries, err := os.ReadDir(inner)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tidy up %s: %w", tmp, err)
	}
	for _, e := range entries {
		if err := s.disk.remove(filepath.Join(inner, e.Name())); err != nil {
			return fmt.Errorf("tidy up %s: %w", tmp, err)
		}
	}
	for _, dir := range []string{inner, tmp} {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		gone, err := s.disk.removeDir(dir)
		if err != nil {
			return fmt.Errorf("tidy up %s: %w", tmp, err)
		}
		if !gone {
			return fmt.Errorf("tidy up %s: it holds something else: move that away", tmp)
		}
	}
	return nil
}

// close removes the records' directory once no record is left, and the root if that is ours and nothing else is in
// it any more.
func (s store) close() error {
	names, err := s.names()
	if err != nil || len(names) > 0 {
		return err
	}
	_, created := os.Stat(filepath.Join(s.dir(), createdName))
	if entries, err := os.ReadDir(s.root); err == nil && created == nil && len(entries) == 1 {
		tmp := temp(s.root)
		if err := s.disk.rename(s.root, tmp); err != nil {
			return fmt.Errorf("remove the registry directory: %w", err)
		}
		return s.discard(tmp)
	}
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return nil // There is nothing to close.
	}
	for _, e := range entries {
		if err := s.disk.remove(filepath.Join(s.dir(), e.Name())); err != nil {
			return fmt.Errorf("remove the records' directory: %w", err)
		}
	}
	_, err = s.disk.removeDir(s.dir())
	return err
}

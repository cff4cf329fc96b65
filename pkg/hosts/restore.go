package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// restoreDir takes the mirror out of one directory. The record goes last, so that a pass that was cut short is
// simply done again: each state in between is one that this function knows.
func (p pass) restoreDir(name string) Entry {
	rec, err := p.store.load(name)
	if err != nil {
		return refused(name, err)
	}
	if err := p.tidy(name, rec); err != nil {
		return refused(name, err)
	}
	path := filepath.Join(p.path(name), hostsName)
	if _, err := os.Stat(p.path(name)); errors.Is(err, fs.ErrNotExist) {
		if rec == nil {
			return Entry{Dir: name, Action: Unchanged}
		}
		return p.forget(name, "the directory was gone already")
	}
	now, err := readFile(path)
	if err != nil && rec == nil {
		return Entry{Dir: name, Action: Unchanged} // Not ours, and nothing that we can read.
	}
	if err != nil {
		return refused(name, err)
	}
	e, err := p.restoreFile(name, rec, now)
	if err != nil {
		return refused(name, err)
	}
	if rec == nil {
		return e
	}
	if rec.CreatedDir {
		gone, err := p.disk.removeDir(p.path(name))
		if err != nil {
			return refused(name, fmt.Errorf("remove the directory: %w", err))
		}
		if !gone && e.Note == "" {
			e.Note = "the directory holds something else and stays"
		}
	}
	if err := p.store.drop(name); err != nil {
		return refused(name, err)
	}
	return e
}

// restoreFile puts back what was there, or takes our entry out of what it has become.
func (p pass) restoreFile(name string, rec *record, now file) (Entry, error) {
	path := filepath.Join(p.path(name), hostsName)
	if !now.Present {
		if rec == nil {
			return Entry{Dir: name, Action: Unchanged}, nil
		}
		e := Entry{Dir: name, Action: Removed}
		if rec.Original.Present {
			e.Note = "the file had been deleted and stays so"
		}
		return e, nil
	}
	if rec != nil && now.same(rec.Original) {
		return Entry{Dir: name, Action: Restored, Note: "it was as before already"}, nil
	}
	if rec.ours(now) {
		return p.putBack(name, path, rec.Original, now)
	}
	if now.Link != "" {
		return Entry{Dir: name, Action: Unchanged, Note: "the file had been replaced by a link, which stays"}, nil
	}
	rest := stripEdited(rec, now.Data, p.cfg.Mirror)
	switch {
	case len(rest) == len(now.Data):
		if rec == nil {
			return Entry{Dir: name, Action: Unchanged}, nil
		}
		return Entry{Dir: name, Action: Unchanged, Note: "somebody had taken the mirror out already"}, nil
	case rec != nil && rec.Original.Present && rec.Original.Link == "" && string(rest) == string(rec.Original.Data):
		return p.putBack(name, path, rec.Original, now)
	case blank(rest) && (rec == nil || !rec.Original.Present):
		return p.putBack(name, path, file{}, now)
	}
	if err := p.disk.write(path, rest, now); err != nil {
		return Entry{}, fmt.Errorf("write %s: %w", hostsName, err)
	}
	return Entry{Dir: name, Action: Stripped, Note: "the file had been edited; only the mirror's entry was taken out"}, nil
}

// putBack makes the file what it was. Its mode and owner are those of now: we kept them when we wrote, and where
// somebody has changed them since, that was for a reason.
func (p pass) putBack(name, path string, original, now file) (Entry, error) {
	var err error
	e := Entry{Dir: name, Action: Restored}
	switch {
	case !original.Present:
		e.Action = Removed
		err = p.disk.remove(path)
	case original.Link != "":
		err = p.disk.symlink(original.Link, path)
	default:
		err = p.disk.write(path, original.Data, now)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("put back %s: %w", hostsName, err)
	}
	return e, nil
}

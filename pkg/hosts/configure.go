package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// pass is one run over a root.
type pass struct {
	cfg   Config
	store store
	disk  disk
}

// configure is Configure with a file system that tests can make fail.
func configure(ctx context.Context, cfg Config, d disk) (Result, error) {
	unlock, err := lock(ctx, cfg.Root)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	p := pass{cfg: cfg, disk: d, store: store{root: cfg.Root, disk: d}}
	if err := p.store.prepare(); err != nil {
		return Result{}, err
	}
	targets, err := p.targets()
	if err != nil {
		return Result{}, err
	}
	order, err := p.order(targets)
	if err != nil {
		return Result{}, err
	}
	var result Result
	seen := map[string]string{} // Directories that were done, by their real path: names may be links to each other.
	for _, name := range order {
		if err := ctx.Err(); err != nil {
			return result.sorted(), errors.Join(result.err(), err)
		}
		if real, err := filepath.EvalSymlinks(p.path(name)); err == nil {
			if other, ok := seen[real]; ok {
				result.Entries = append(result.Entries,
					Entry{Dir: name, Action: Unchanged, Note: fmt.Sprintf("the same directory as %q", other)})
				continue
			}
			seen[real] = name
		}
		var e Entry
		if targets[name] {
			e = p.configureDir(name)
		} else {
			e = p.restoreDir(name)
		}
		p.log(e)
		result.Entries = append(result.Entries, e)
	}
	return result.sorted(), result.err()
}

func (p pass) path(name string) string { return filepath.Join(p.cfg.Root, name) }

func (p pass) log(e Entry) {
	if e.Action != Unchanged && e.Err == nil {
		p.cfg.Log.Info("changed a registry's hosts.toml", "dir", e.Dir, "action", e.Action, "note", e.Note)
	}
}

func (r Result) sorted() Result {
	slices.SortFunc(r.Entries, func(a, b Entry) int { return strings.Compare(a.Dir, b.Dir) })
	return r
}

// order gives the directories that have a record, then the others of targets. Where two names lead to one directory,
// the one with the record knows what was there.
func (p pass) order(targets map[string]bool) ([]string, error) {
	names, err := p.store.names()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// targets gives the directories that shall have the mirror.
func (p pass) targets() (map[string]bool, error) {
	targets := map[string]bool{}
	for _, registry := range p.cfg.Registries {
		targets[p.dirOf(registry)] = true
	}
	if len(p.cfg.Registries) > 0 {
		return targets, nil
	}
	targets[defaultDir] = true
	entries, err := os.ReadDir(p.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("list the registry directories: %w", err)
	}
	for _, e := range entries {
		// No registry has a name that starts like this; "_backup" and "..data" are other tools' affairs.
		if strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "_") {
			continue
		}
		if info, err := os.Stat(p.path(e.Name())); err == nil && info.IsDir() {
			targets[e.Name()] = true
		}
	}
	if len(targets) > maxDirs {
		return nil, fmt.Errorf("%d directories in %s are more than %d", len(targets), p.cfg.Root, maxDirs)
	}
	return targets, nil
}

// dirOf gives the directory that containerd looks into for a registry: the first that exists, else the first.
func (p pass) dirOf(registry string) string {
	first := registry
	if i := strings.LastIndex(registry, ":"); i > 0 {
		first = registry[:i] + "_" + registry[i+1:] + "_"
	}
	for _, name := range []string{first, registry} {
		if _, err := os.Stat(p.path(name)); err == nil {
			return name
		}
	}
	return first
}

func refused(name string, err error) Entry { return Entry{Dir: name, Action: Refused, Err: err} }

// configureDir puts the mirror into one directory. The record comes first: what the record says is what Cleanup
// will put back, whether or not the rest happened.
func (p pass) configureDir(name string) Entry {
	rec, err := p.store.load(name)
	if err != nil {
		return refused(name, err)
	}
	if err := p.tidy(name, rec); err != nil {
		return refused(name, err)
	}
	_, statErr := os.Stat(p.path(name))
	exists := statErr == nil
	if !exists && rec != nil && len(p.cfg.Registries) == 0 && name != defaultDir {
		return p.forget(name, "the directory is gone")
	}
	path := filepath.Join(p.path(name), hostsName)
	now, err := readFile(path)
	if err != nil {
		return refused(name, err)
	}
	base := p.base(name, rec, now)
	created := !exists || rec != nil && rec.CreatedDir
	want, err := p.compose(name, base, created)
	if err != nil {
		return refused(name, err)
	}
	written := now.Present && now.Link == "" && string(now.Data) == string(want)
	if written && rec.ours(now) && rec.Original.same(base) {
		return Entry{Dir: name, Action: Unchanged}
	}
	if err := p.store.save(name, rec.next(base, want, p.cfg.Mirror, created)); err != nil {
		return refused(name, err)
	}
	if !exists {
		if err := p.disk.mkdir(p.path(name)); err != nil {
			return refused(name, fmt.Errorf("create the directory: %w", err))
		}
	}
	if written {
		return Entry{Dir: name, Action: Unchanged}
	}
	if err := p.disk.write(path, want, now); err != nil {
		return refused(name, fmt.Errorf("write %s: %w", hostsName, err))
	}
	return Entry{Dir: name, Action: Written, Note: note(rec, now)}
}

// tidy removes what a pass that was cut short has left half-written. Without a record it had not come that far.
func (p pass) tidy(name string, rec *record) error {
	if err := p.disk.remove(temp(p.store.path(name))); err != nil {
		return err
	}
	if rec == nil {
		return nil
	}
	return p.disk.remove(temp(filepath.Join(p.path(name), hostsName)))
}

func note(rec *record, now file) string {
	switch {
	case rec == nil && now.Present:
		return "merged into the file that was there"
	case rec == nil:
		return ""
	case !now.Present:
		return "the file had been deleted"
	case rec.ours(now):
		return "brought up to date"
	default:
		return "the file had been edited; the edits were kept"
	}
}

// base gives the file without our entry: what Cleanup is to put back.
func (p pass) base(name string, rec *record, now file) file {
	switch {
	case rec != nil && now.same(rec.Original):
		return now // Not written yet, or put back by somebody.
	case rec.ours(now):
		return p.follow(name, rec.Original)
	case !now.Present || now.Link != "":
		return now
	}
	base := now
	base.Data = stripEdited(rec, now.Data, p.cfg.Mirror)
	if blank(base.Data) && len(base.Data) < len(now.Data) && (rec == nil || !rec.Original.Present) {
		return file{} // It held our entry and nothing else.
	}
	return base
}

// follow reads anew what a link leads to whose place our file has taken, so that changes there still take effect.
func (p pass) follow(name string, base file) file {
	if base.Link == "" {
		return base
	}
	target := base.Link
	if !filepath.IsAbs(target) {
		target = filepath.Join(p.path(name), target)
	}
	if now, err := readFile(target); err == nil && now.Present {
		base.Data = now.Data
	}
	return base
}

// stripEdited takes our entry out of a file that somebody has edited since. Their own table for the same address,
// if the file had one before us, stays. A file that is no TOML any more loses only what is marked and untouched.
func stripEdited(rec *record, data []byte, mirror string) []byte {
	mirrors := []string{mirror}
	if rec != nil {
		mirrors = append(mirrors, rec.Mirrors...)
	}
	all := rec != nil
	if rec != nil && rec.Original.Present {
		doc, err := parse(rec.Original.Data)
		all = err == nil && !slices.ContainsFunc(doc.hosts, func(e endpoint) bool { return sameMirror(e.name, mirrors) })
	}
	out, err := strip(data, mirrors, all)
	if err != nil {
		return cut(data)
	}
	return out
}

// compose gives the hosts.toml that a directory shall have.
func (p pass) compose(name string, base file, created bool) ([]byte, error) {
	data := base.Data
	if len(data) == 0 {
		var err error
		if data, err = p.inherited(name, created); err != nil {
			return nil, err
		}
	}
	return merge(data, p.cfg.Mirror)
}

// inherited gives what containerd would do without a hosts.toml in this directory, written as one: use the
// certificates that are there; or, without the directory, what "_default" says.
func (p pass) inherited(name string, created bool) ([]byte, error) {
	doc, err := certificates(p.path(name))
	if err != nil {
		return nil, err
	}
	if !doc.empty() {
		return render(doc, "This directory's certificates; containerd finds them by itself only without this file."), nil
	}
	if !created || name == defaultDir {
		return nil, nil
	}
	rec, err := p.store.load(defaultDir)
	if err != nil {
		return nil, err
	}
	now, err := readFile(filepath.Join(p.path(defaultDir), hostsName))
	if err != nil {
		return nil, err
	}
	if base := p.base(defaultDir, rec, now); len(base.Data) > 0 {
		if doc, err = parse(base.Data); err != nil {
			doc = document{} // Containerd turns to the certificates then.
		}
	}
	if doc.empty() {
		if doc, err = certificates(p.path(defaultDir)); err != nil {
			return nil, err
		}
	}
	doc = doc.rebase(filepath.Join(p.cfg.NodeRoot, defaultDir))
	return render(doc, "What _default says, which this directory hides."), nil
}

// forget drops the record of a directory that is not there any more.
func (p pass) forget(name, why string) Entry {
	if err := p.store.drop(name); err != nil {
		return refused(name, err)
	}
	return Entry{Dir: name, Action: Removed, Note: why}
}

// cleanup is Cleanup with a file system that tests can make fail.
func cleanup(ctx context.Context, cfg Config, d disk) (Result, error) {
	p := pass{cfg: cfg, disk: d, store: store{root: cfg.Root, disk: d}}
	if _, err := os.Stat(filepath.Dir(cfg.Root)); errors.Is(err, fs.ErrNotExist) {
		return Result{}, nil
	}
	unlock, err := lock(ctx, cfg.Root)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := p.store.discard(temp(cfg.Root)); err != nil {
		return Result{}, err
	}
	if _, err := os.Stat(cfg.Root); errors.Is(err, fs.ErrNotExist) {
		return Result{}, nil
	}
	p.cfg.Registries = nil
	all, err := p.targets() // Directories whose record was lost are known by the marks in their files.
	if err != nil {
		return Result{}, err
	}
	order, err := p.order(all)
	if err != nil {
		return Result{}, err
	}
	var result Result
	for _, name := range order {
		if err := ctx.Err(); err != nil {
			return result.sorted(), errors.Join(result.err(), err)
		}
		if e := p.restoreDir(name); e.Action != Unchanged {
			p.log(e)
			result.Entries = append(result.Entries, e)
		}
	}
	return result.sorted(), errors.Join(result.err(), p.store.close())
}

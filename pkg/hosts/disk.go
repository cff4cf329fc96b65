package hosts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// tempSuffix ends the names of files that are being written. Neither containerd nor Docker reads files of this name.
const tempSuffix = ".kioo"

// disk makes the changes to the file system, one at a time and each atomic. Its zero value is ready.
type disk struct {
	// step, if set, is called before each change; its error takes the change's place. Tests cut a pass short with it.
	step func(op, path string) error
}

func (d disk) do(op, path string, change func() error) error {
	if d.step != nil {
		if err := d.step(op, path); err != nil {
			return fmt.Errorf("%s %s: %w", op, path, err)
		}
	}
	return change()
}

// file is a file as it was found.
type file struct {
	Present bool   `json:"present"`
	Data    []byte `json:"data,omitempty"`
	// Link is where a symbolic link points to; Data is then what it leads to, and empty where that is missing.
	Link string `json:"link,omitempty"`

	mode     fs.FileMode
	uid, gid int
}

// readFile reads a file of at most maxFile bytes. A missing one is no error.
func readFile(path string) (file, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err != nil {
		return file{}, err
	}
	f := file{Present: true, mode: 0o644}
	if info.Mode()&fs.ModeSymlink != 0 {
		if f.Link, err = os.Readlink(path); err != nil {
			return file{}, err
		}
		if info, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return f, nil
		} else if err != nil {
			return file{}, err
		}
	} else if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.mode, f.uid, f.gid = info.Mode().Perm(), int(stat.Uid), int(stat.Gid)
	}
	if !info.Mode().IsRegular() {
		return file{}, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxFile {
		return file{}, fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxFile)
	}
	opened, err := os.Open(path)
	if err != nil {
		return file{}, err
	}
	defer opened.Close()
	if f.Data, err = io.ReadAll(io.LimitReader(opened, maxFile+1)); err != nil {
		return file{}, err
	}
	if len(f.Data) > maxFile {
		return file{}, fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return f, nil
}

// temp names the file that is renamed to path once it is complete. There is one per path, so that one which a crash
// left behind is found.
func temp(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+tempSuffix)
}

// write replaces a file, or the link in its place, by data. When it returns, the data is on the disk.
func (d disk) write(path string, data []byte, like file) error {
	tmp := temp(path)
	if err := d.remove(tmp); err != nil {
		return err
	}
	mode := like.mode
	if !like.Present {
		mode = 0o644
	}
	err := d.do("create", tmp, func() error {
		f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(fill(f, data, mode, like), f.Close())
	})
	if err != nil {
		return err
	}
	return d.rename(tmp, path)
}

func fill(f *os.File, data []byte, mode fs.FileMode, like file) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if like.Present && like.Link == "" && (like.uid != os.Geteuid() || like.gid != os.Getegid()) {
		if err := f.Chown(like.uid, like.gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

// symlink replaces a file by a symbolic link.
func (d disk) symlink(target, path string) error {
	tmp := temp(path)
	if err := d.remove(tmp); err != nil {
		return err
	}
	if err := d.do("symlink", tmp, func() error { return os.Symlink(target, tmp) }); err != nil {
		return err
	}
	return d.rename(tmp, path)
}

func (d disk) rename(from, to string) error {
	if err := d.do("rename", to, func() error { return os.Rename(from, to) }); err != nil {
		return err
	}
	return d.sync(filepath.Dir(to))
}

// sync makes what happened to a directory's names last.
func (d disk) sync(dir string) error {
	return d.do("sync", dir, func() error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = f.Sync()
		if errors.Is(err, unix.EINVAL) {
			err = nil // Some file systems don't sync directories, and have no need to.
		}
		return errors.Join(err, f.Close())
	})
}

// remove removes a file if it is there.
func (d disk) remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := d.do("remove", path, func() error { return os.Remove(path) }); err != nil {
		return err
	}
	return d.sync(filepath.Dir(path))
}

// removeDir removes a directory if it is empty, and says whether it is gone.
func (d disk) removeDir(path string) (bool, error) {
	err := d.do("rmdir", path, func() error { return unix.Rmdir(path) })
	switch {
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTDIR):
		return false, nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return false, err
	}
	return true, d.sync(filepath.Dir(path))
}

func (d disk) mkdir(path string) error {
	err := d.do("mkdir", path, func() error {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		return os.Chmod(path, 0o755) // Whatever the umask: containerd may not be the only one who reads here.
	})
	if err != nil {
		return err
	}
	return d.sync(filepath.Dir(path))
}

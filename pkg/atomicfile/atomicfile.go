// Package atomicfile replaces small files as a whole: a crash leaves the old one or the new one, and beside it at most
// one more file, of a name that is known. The directory must be this process's own: nobody else may write into it.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
)

// suffix ends the name that a file has until it is complete. It is always the same one, so that what a crash left is
// replaced by the next file, and found by Remove.
const suffix = ".new"

// Write replaces a file, or makes it, that nobody else may read. Only one Write of a path may run at a time.
func Write(path string, data []byte) error {
	if err := removeFile(path + suffix); err != nil {
		return err
	}
	err := fill(path+suffix, data)
	if err == nil {
		err = os.Rename(path+suffix, path)
	}
	if err != nil {
		return errors.Join(err, removeFile(path+suffix))
	}
	return nil
}

// fill makes a file whose data is on the disk: some file systems rename before they write, and a loss of power would
// leave an empty file.
func fill(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Remove removes a file that Write made, and what a Write left that did not come to its end.
func Remove(path string) error { return errors.Join(removeFile(path), removeFile(path+suffix)) }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives a file its size and, where the file system knows how, its space on the disk: so a full disk shows now
// and not in the middle of a pull.
func allocate(file *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	for range 16 { // Signals interrupt it, and it starts from scratch then.
		err := unix.Fallocate(int(file.Fd()), 0, 0, size)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return file.Truncate(size)
}

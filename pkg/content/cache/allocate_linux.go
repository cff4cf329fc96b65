package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives n bytes of a file their space on the disk, where the file system knows how: so a full disk shows
// before they are written, and files that grow side by side are not scattered in small parts.
func allocate(file *os.File, off, n int64) error {
	for range 16 { // Signals interrupt it, and it starts from scratch then.
		err := unix.Fallocate(int(file.Fd()), 0, off, n)
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
	return nil
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// knockWithin bounds the question whether somebody listens on a socket that is there already.
const knockWithin = time.Second

// listenControl listens on a socket that only root and this process's own user may use. One that a mirror left when
// it was killed gives way; one that somebody listens on does not.
func listenControl(path string) (net.Listener, error) {
	if most := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > most {
		return nil, fmt.Errorf("the path %s has %d bytes, and the system allows sockets %d: set control.socket to a shorter one",
			path, len(path), most)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Whoever came before this is refused by who he is.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &trusted{l, os.Geteuid()}, nil
}

// clearSocket takes away a socket on which nobody listens.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there, and is no socket", path)
	}
	conn, err := net.DialTimeout("unix", path, knockWithin)
	if err == nil {
		return errors.Join(fmt.Errorf("another process listens on %s: is kioo running twice?", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is there, and nobody knows whether it is in use: %w", path, err)
	}
	return os.Remove(path)
}

// trusted is a listener that takes connections of root and of one user alone: the permissions of a socket are a file's,
// and files can be given to others.
type trusted struct {
	*net.UnixListener
	uid int
}

// Accept implements net.Listener.
func (l *trusted) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := userOf(conn); err == nil && (uid == 0 || uid == l.uid) {
			return conn, nil
		}
		_ = conn.Close() // Nothing was written to it.
	}
}

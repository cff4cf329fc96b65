package daemon_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
)

// socketVariable is set in a copy of this test binary, to the socket that it asks as another user.
const socketVariable = "KIOO_DAEMON_TEST_SOCKET"

// TestControlIsForRoot asks as root, and as another user: by the permissions that the socket has, and by some that
// somebody has loosened.
func TestControlIsForRoot(t *testing.T) {
	if socket := os.Getenv(socketVariable); socket != "" {
		fmt.Println(knockSocket(socket))
		return
	}
	if os.Geteuid() != 0 {
		refusesUs(t) // Only root can be somebody else.
		return
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // So that not these keep the other one out.
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(t)
	cfg.Control.Socket = filepath.Join(dir, "control.sock")
	_, stop := start(t, cfg)
	info, err := os.Stat(cfg.Control.Socket)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got := knockSocket(cfg.Control.Socket); got != "answered" {
		t.Errorf("root: %s", got)
	}
	program := filepath.Join(dir, "other.test") // Where the other one can run it.
	copyProgram(t, program)
	for mode, want := range map[fs.FileMode]string{0o600: "permission denied", 0o777: "closed"} {
		if err := os.Chmod(cfg.Control.Socket, mode); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestControlIsForRoot$")
		cmd.Env, cmd.Dir = append(os.Environ(), socketVariable+"="+cfg.Control.Socket), "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), want+"\n") {
			t.Errorf("mode %v, another user: %v, %s, want %s", mode, err, out, want)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cfg.Control.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was left behind: %v", err)
	}
}

// refusesUs has a socket that is another user's.
func refusesUs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	others := daemon.Trusted(l, os.Geteuid()+1)
	accepted := make(chan error, 1)
	go func() {
		conn, err := others.Accept()
		if err == nil {
			conn.Close()
			err = errors.New("we are let in")
		}
		accepted <- err
	}()
	if got := knockSocket(path); got != "closed" {
		t.Error(got)
	}
	others.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	into, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(into, from)
	if err := errors.Join(err, into.Close()); err != nil {
		t.Fatal(err)
	}
}

// knockSocket tells what becomes of a request.
func knockSocket(path string) string {
	conn, err := net.Dial("unix", path)
	if errors.Is(err, fs.ErrPermission) {
		return "permission denied"
	}
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST "+daemon.RefreshPath+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "closed"
	}
	if answer, _ := io.ReadAll(conn); len(answer) == 0 {
		return "closed"
	}
	return "answered"
}

// TestControlSocketTaken has something be there already.
func TestControlSocketTaken(t *testing.T) {
	bind := func(t *testing.T, path string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	for name, tt := range map[string]struct {
		before func(t *testing.T, path string)
		want   string // Of the error; empty: it starts.
	}{
		"nothing":             {func(*testing.T, string) {}, ""},
		"one of a killed one": {func(t *testing.T, path string) { bind(t, path).Close() }, ""},
		"one that is in use":  {func(t *testing.T, path string) { bind(t, path) }, "another process listens on"},
		"a file":              {func(_ *testing.T, path string) { _ = os.WriteFile(path, nil, 0o600) }, "is no socket"},
		"a link to somewhere": {func(_ *testing.T, path string) { _ = os.Symlink("/etc/passwd", path) }, "is no socket"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			tt.before(t, cfg.ControlSocket())
			was, _ := os.Lstat(cfg.ControlSocket())
			if tt.want == "" {
				_, stop := start(t, cfg)
				if got := knockSocket(cfg.ControlSocket()); got != "answered" {
					t.Error(got)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
				return
			}
			_, err := daemon.New(daemon.Config{Config: cfg, Log: logr.Discard(), Version: "test"})
			if err == nil || !strings.Contains(err.Error(), "control.socket: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if is, err := os.Lstat(cfg.ControlSocket()); err != nil || !os.SameFile(was, is) {
				t.Errorf("what was there is gone: %v", err)
			}
		})
	}
}

func TestControlSocketTooLong(t *testing.T) {
	cfg := testConfig(t)
	cfg.DataDir = filepath.Join(cfg.DataDir, strings.Repeat("long/", 20))
	_, err := daemon.New(daemon.Config{Config: cfg, Log: logr.Discard(), Version: "test"})
	if err == nil || !strings.Contains(err.Error(), "control.socket") || !strings.Contains(err.Error(), "107") {
		t.Fatalf("%v", err)
	}
	cfg.Control = config.Control{Socket: filepath.Join(t.TempDir(), "c.sock")}
	_, stop := start(t, cfg)
	if got := knockSocket(cfg.Control.Socket); got != "answered" {
		t.Error(got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// prefix begins the names of all namespaces and directories of all fleets.
	prefix = "kioo-fleet-"

	// namespaces is where the ip tool keeps them.
	namespaces = "/run/netns"
)

// newDir makes a fleet's directory, whose name is the fleet's and tells its process:
// "kioo-fleet-<pid>-<when that started>-<number>".
func newDir() (string, error) {
	pid := os.Getpid()
	started, err := startTime(pid)
	if err != nil {
		return "", err
	}
	for i := 1; ; i++ {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("%s%d-%s-%d", prefix, pid, started, i))
		if err := os.Mkdir(dir, 0o711); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// startTime is when a process started, in ticks since boot: a number that no later process of the same id has.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	// The second field is the program's name in parentheses, and may have anything in it (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const index = 22 - 3 // Of those after the name, which begin with the third.
	if len(fields) <= index {
		return "", fmt.Errorf("process %d: its stat has %d fields after the name", pid, len(fields))
	}
	return fields[index], nil
}

// dead tells whether a name is a fleet's whose process is gone.
func dead(name string) bool {
	rest, ours := strings.CutPrefix(name, prefix)
	parts := strings.SplitN(rest, "-", 3)
	if !ours || len(parts) < 3 {
		return false
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	started, err := startTime(pid)
	return errors.Is(err, fs.ErrNotExist) || err == nil && started != parts[1]
}

// removeLeftovers removes the namespaces and directories of fleets whose process was killed. Their processes are gone:
// the kernel killed them along with it. Several may do this at the same time.
func removeLeftovers(ctx context.Context) error {
	var errs []error
	for _, dir := range []string{namespaces, os.TempDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case !dead(e.Name()):
				continue
			case dir == namespaces:
				err = tool(ctx, nil, "ip", "netns", "delete", e.Name())
			default:
				err = os.RemoveAll(path)
			}
			if _, gone := os.Lstat(path); err != nil && gone == nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

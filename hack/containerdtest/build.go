package containerdtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/hack/process"
)

// Version is a release of containerd.
type Version string

// The newest of each line that is supported, and what their behaviour differs in: V1 has no content events, and
// pulls with its client instead of the transfer service.
const (
	V1 Version = "v1.7.35"
	V2 Version = "v2.4.2"
)

// Versions are all releases that tests should pass with.
func Versions() []Version { return []Version{V1, V2} }

const (
	program1 = "github.com/containerd/containerd/cmd/containerd"
	module1  = "github.com/containerd/containerd"
	program2 = "github.com/containerd/containerd/v2/cmd/containerd"
	ctr      = "github.com/containerd/containerd/v2/cmd/ctr"
)

// Install builds containerd, once per user and version, and returns its file.
func Install(ctx context.Context, version Version) (string, error) {
	if version == V1 {
		return install1(ctx)
	}
	return process.Install(ctx, program2, string(version))
}

// InstallCtr builds ctr, which works with containerd of every version, and returns its file.
func InstallCtr(ctx context.Context) (string, error) {
	return process.Install(ctx, ctr, string(V2))
}

// install1 builds what go install refuses to: a module that excludes versions of its dependencies. It builds the
// published module as its own main module instead, so that the versions are exactly containerd's.
func install1(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("install %s: %w", program1, err)
	}
	dir := filepath.Join(cache, "kioo-tools", "containerd-"+string(V1))
	program := filepath.Join(dir, "containerd")
	if isFile(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("install %s: %w", program1, err)
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("install %s: %w", program1, err)
	}
	defer unlock()
	if isFile(program) {
		return program, nil // Whoever held the lock has built it.
	}
	if err := build1(ctx, dir, program); err != nil {
		return "", fmt.Errorf("install %s@%s: %w", program1, V1, err)
	}
	return program, nil
}

// build1 builds in a directory of its own and renames: a program is there whole or not at all.
func build1(ctx context.Context, dir, program string) error {
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out, err := run(ctx, tmp, "mod", "download", "-json", module1+"@"+string(V1))
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return fmt.Errorf("read what go mod download says: %w", err)
	}
	// Published modules are read-only, and go build wants to be able to write these two.
	for _, name := range []string{"go.mod", "go.sum"} {
		body, err := os.ReadFile(filepath.Join(module.Dir, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tmp, name), body, 0o644); err != nil {
			return err
		}
	}
	built := filepath.Join(tmp, "containerd")
	_, err = run(ctx, module.Dir, "build", "-mod=mod", "-modfile="+filepath.Join(tmp, "go.mod"), "-trimpath",
		"-ldflags=-s -w", "-o", built, "./cmd/containerd")
	if err != nil {
		return err
	}
	return os.Rename(built, program)
}

func run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOOS=", "GOARCH=")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = exit.Stderr
		}
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, out)
	}
	return out, nil
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// lock takes a lock that all processes of this machine share. The kernel gives it back when its holder dies.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("lock %s, which another process holds: %w", name, ctx.Err())
		case <-ticker.C:
		}
	}
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Installed tells whether Install would find a program without building it.
func Installed(pkg, version string) bool {
	name := path.Base(pkg)
	dir, err := toolDir(name + "-" + version)
	return err == nil && isFile(filepath.Join(dir, name))
}

// Install builds a Go program of a published module at a version and returns its file, as Once does.
func Install(ctx context.Context, pkg, version string) (string, error) {
	name := path.Base(pkg)
	program, err := Once(ctx, name+"-"+version, name, func(ctx context.Context, dir string) error {
		cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", pkg+"@"+version)
		cmd.Dir = dir // Outside of any module, so that ours says nothing about the program's dependencies.
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOOS=", "GOARCH=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("install %s@%s: %w", pkg, version, err)
	}
	return program, nil
}

// Once returns the file of a program that is built once per user and kept below that id in the user's cache directory.
// build puts it by its name into an empty directory. Of several processes that ask at the same time one builds and the
// others wait.
func Once(ctx context.Context, id, name string, build func(ctx context.Context, dir string) error) (string, error) {
	dir, err := toolDir(id)
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, name)
	if isFile(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(program) {
		return program, nil // Whoever held the lock has built it.
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(tmp, name), program); err != nil { // It is there whole or not at all.
		return "", err
	}
	return program, nil
}

// InstallPinned is Install with the version that the Makefile in a directory names: "path@v1.2.3".
func InstallPinned(ctx context.Context, root, pkg string) (string, error) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		return "", err
	}
	version := regexp.MustCompile(regexp.QuoteMeta(pkg) + `@(v[\d.]+)`).FindSubmatch(makefile)
	if version == nil {
		return "", fmt.Errorf("the Makefile names no version of %s", pkg)
	}
	return Install(ctx, pkg, string(version[1]))
}

// Build builds one of this module's programs, such as "./cmd/kioo", into dir and returns its file.
func Build(ctx context.Context, pkg, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("build %s: find the module: %w", pkg, err)
	}
	program := filepath.Join(dir, path.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, pkg)
	cmd.Dir = strings.TrimSpace(string(out))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return program, nil
}

func toolDir(id string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "kioo-tools", id), nil
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

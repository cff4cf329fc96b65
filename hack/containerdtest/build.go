package containerdtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

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
	program, err := process.Once(ctx, "containerd-"+string(V1), "containerd", build1)
	if err != nil {
		return "", fmt.Errorf("install %s@%s: %w", program1, V1, err)
	}
	return program, nil
}

func build1(ctx context.Context, tmp string) error {
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
	_, err = run(ctx, module.Dir, "build", "-mod=mod", "-modfile="+filepath.Join(tmp, "go.mod"), "-trimpath",
		"-ldflags=-s -w", "-o", filepath.Join(tmp, "containerd"), "./cmd/containerd")
	return err
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

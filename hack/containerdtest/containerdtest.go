// Package containerdtest gives tests and the local fleet real containerds: processes of releases that were built from
// their modules, each with a root, a state and a socket of its own.
//
// It starts, stops and kills them, pulls through CRI as kubelet does, and does to their content what tests want done.
// Containers are not its business: only what images need is configured. It knows nothing of Kioo.
package containerdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kioo-dev/kioo/hack/process"
)

const (
	// buildTime bounds the first build on a machine, which downloads and compiles some hundred modules.
	buildTime = 15 * time.Minute
	startTime = 60 * time.Second
	stopTime  = 10 * time.Second
)

// Config says what containerd to run. The zero value is the newest one, with no registry configured.
type Config struct {
	// Version is the release. Default: V2.
	Version Version
	// Dir is where everything of this containerd is. Default: a temporary directory, which Close deletes. Keep it
	// short, for a socket's path has 107 bytes, and on a filesystem that overlayfs can stand on.
	Dir string
	// CertsDir is the registry's config_path. Default: none, so that every registry is asked directly.
	CertsDir string
	// DiscardUnpackedLayers is containerd's own setting, as EKS and kind have it.
	DiscardUnpackedLayers bool
	// Snapshotter is CRI's snapshotter. Default: overlayfs.
	Snapshotter string
	// Wrapper is a command that runs containerd in its own place, such as "ip netns exec node-1".
	Wrapper []string
	// Settings is added to config.toml, which is of version 2 for V1 and of version 3 for V2. TOML lets nobody open a
	// table twice, and those of CRI's images and registry, and of NRI, are taken.
	Settings string
	// Env is added to this process's environment.
	Env []string
}

// Containerd is a containerd that may run. Its methods are safe for concurrent use, but those that start and end it.
type Containerd struct {
	cfg     Config
	program string
	dir     string
	ours    bool // The directory is to be deleted.
	conn    *grpc.ClientConn

	mu   sync.Mutex
	proc *process.Process // The last one; nil before the first.
}

// New runs a containerd for the length of a test. Its output is shown if the test fails.
func New(tb testing.TB, cfg Config) *Containerd {
	tb.Helper()
	c := NewStopped(tb, cfg)
	if err := c.Start(tb.Context()); err != nil {
		tb.Fatalf("containerdtest: %v", err)
	}
	return c
}

// NewStopped is New without a start.
func NewStopped(tb testing.TB, cfg Config) *Containerd {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("containerd needs root")
	}
	c, err := Prepare(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("containerdtest: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("end of the output of containerd %s:\n%s", c.cfg.Version, c.Log())
		}
		if err := c.Close(); err != nil {
			tb.Errorf("containerdtest: %v", err)
		}
	})
	return c
}

// Prepare builds containerd, if that is still to be done, and writes its configuration. It starts nothing.
func Prepare(ctx context.Context, cfg Config) (*Containerd, error) {
	if cfg.Version == "" {
		cfg.Version = V2
	}
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "overlayfs"
	}
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	program, err := Install(ctx, cfg.Version)
	if err != nil {
		return nil, fmt.Errorf("containerd %s: %w", cfg.Version, err)
	}
	c := &Containerd{cfg: cfg, program: program, dir: cfg.Dir}
	if c.dir == "" {
		c.ours = true
		if c.dir, err = os.MkdirTemp("", "kioo-ctd-"); err != nil {
			return nil, fmt.Errorf("containerd %s: %w", cfg.Version, err)
		}
	}
	if err := c.configure(); err != nil {
		return nil, errors.Join(fmt.Errorf("containerd %s: configure: %w", cfg.Version, err), c.Close())
	}
	return c, nil
}

// Start starts containerd, the first time or again, and returns once it answers CRI. ctx bounds only the start.
func (c *Containerd) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if p := c.process(); p != nil {
		select {
		case <-p.Done():
		default:
			return fmt.Errorf("start containerd %s: it runs", c.cfg.Version)
		}
	}
	command := append(append([]string(nil), c.cfg.Wrapper...), c.program, "--config", c.configFile())
	p, err := process.Start(process.Config{Path: command[0], Args: command[1:], Env: c.cfg.Env})
	if err != nil {
		return fmt.Errorf("containerd %s: %w", c.cfg.Version, err)
	}
	c.mu.Lock()
	c.proc = p
	c.mu.Unlock()
	// An attempt to connect that failed makes gRPC wait before the next, and it may have failed just now.
	c.conn.ResetConnectBackoff()
	if err := p.WaitReady(ctx, func() bool { return c.answers(ctx) }); err != nil {
		return fmt.Errorf("containerd %s: %w", c.cfg.Version, err)
	}
	return nil
}

func (c *Containerd) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := runtime.NewImageServiceClient(c.conn).ListImages(ctx, &runtime.ListImagesRequest{})
	return err == nil
}

func (c *Containerd) process() *process.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proc
}

// Stop asks containerd to end and returns once it has. What it holds stays.
func (c *Containerd) Stop() error {
	p := c.process()
	if p == nil {
		return nil
	}
	if err := p.Stop(stopTime); err != nil {
		return fmt.Errorf("containerd %s: %w", c.cfg.Version, err)
	}
	return nil
}

// Kill ends containerd as kill -9 does and returns once it is gone.
func (c *Containerd) Kill() {
	if p := c.process(); p != nil {
		p.Kill()
	}
}

// Pause freezes containerd: its socket accepts connections, and nothing answers. Resume ends that.
func (c *Containerd) Pause() error {
	if err := c.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	// Each thread stops when it next runs, and may answer somebody before.
	for range 1000 {
		if stopped(c.PID()) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("containerd %s does not stop", c.cfg.Version)
}

// stopped tells whether all threads of a process are stopped by a signal (proc_pid_stat(5)).
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, func(path string) bool {
		stat, err := os.ReadFile(path)
		return err == nil && !bytes.Contains(stat, []byte(") T "))
	})
}

// Resume lets a paused containerd go on.
func (c *Containerd) Resume() error { return c.signal(syscall.SIGCONT) }

func (c *Containerd) signal(s syscall.Signal) error {
	p := c.process()
	if p == nil {
		return fmt.Errorf("containerd %s does not run", c.cfg.Version)
	}
	if err := syscall.Kill(p.PID(), s); err != nil {
		return fmt.Errorf("containerd %s: %v: %w", c.cfg.Version, s, err)
	}
	return nil
}

// Address is the path of the socket, which exists while containerd runs.
func (c *Containerd) Address() string { return filepath.Join(c.dir, "containerd.sock") }

// ContentDir is the content store's directory. containerd makes it when it first starts.
func (c *Containerd) ContentDir() string {
	return filepath.Join(c.root(), "io.containerd.content.v1.content")
}

// PID is containerd's process id; 0 before its first start.
func (c *Containerd) PID() int {
	if p := c.process(); p != nil {
		return p.PID()
	}
	return 0
}

// Version is containerd's release.
func (c *Containerd) Version() Version { return c.cfg.Version }

// Log is the end of what containerd printed since its last start.
func (c *Containerd) Log() string {
	if p := c.process(); p != nil {
		return p.Log()
	}
	return ""
}

func (c *Containerd) root() string       { return filepath.Join(c.dir, "root") }
func (c *Containerd) configFile() string { return filepath.Join(c.dir, "config.toml") }

// Close ends containerd and deletes what it stored, if Dir was empty. Closing twice does nothing more.
func (c *Containerd) Close() error {
	c.Kill() // It keeps nothing worth a graceful end.
	if c.conn != nil {
		_ = c.conn.Close() // Only the second time it fails.
	}
	err := unmountBelow(c.dir)
	if c.ours && err == nil {
		err = os.RemoveAll(c.dir)
	}
	if err != nil {
		return fmt.Errorf("close containerd %s: %w", c.cfg.Version, err)
	}
	return nil
}

// unmountBelow takes away the mounts that a containerd leaves behind which was killed while it unpacked.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], dir+"/") {
			continue
		}
		if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", fields[1], err)
		}
	}
	return nil
}

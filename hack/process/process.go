// Package process runs other programs for tests and benchmarks and looks at what they use.
//
// It builds the programs that it needs, starts them so that they never outlive this process, keeps the end of what
// they print, and reads their memory and processor time from /proc. It knows nothing of registries.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// Config says what to run.
type Config struct {
	// Path is the program's file.
	Path string
	// Args are its arguments, without the program's own name.
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Dir is the working directory. Empty: this process's.
	Dir string
	// KeepLog is how many bytes of the end of the output are kept. Default: 256 KiB.
	KeepLog int
}

// Process is a running program. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	name string
	log  *tail
	done chan struct{}
	err  error // Why it ended; to be read after done.
}

// Start starts a program. It ends with Stop or Kill, and the kernel kills it when this process goes.
func Start(cfg Config) (*Process, error) {
	p := &Process{
		cmd:  exec.Command(cfg.Path, cfg.Args...),
		name: filepath.Base(cfg.Path),
		log:  newTail(cfg.KeepLog),
		done: make(chan struct{}),
	}
	p.cmd.Env = append(os.Environ(), cfg.Env...)
	p.cmd.Dir = cfg.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	// A program that leaves children behind, which hold the pipe of its output open, must not keep Wait waiting.
	p.cmd.WaitDelay = time.Second

	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// run stays on one thread for as long as the program runs: Pdeathsig means the death of the thread that started it.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	if err := p.cmd.Wait(); !errors.Is(err, exec.ErrWaitDelay) {
		p.err = err
	}
}

// PID is the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Log is the end of what the program printed so far.
func (p *Process) Log() string { return p.log.String() }

// Err is why the program ended: nil while it runs and when it ended with status 0.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop asks the program to end (SIGTERM) and returns once it has; it kills the program when grace has passed, and
// then says so.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // It may have ended already; then there is nothing to ask.
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
	}
	p.Kill()
	return fmt.Errorf("stop %s: still running after %v, killed", p.name, grace)
}

// Kill ends the program as kill -9 does and returns once it is gone.
func (p *Process) Kill() {
	// With its children, which would outlive it otherwise. All of them may have ended already.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// WaitLog waits for a line of output that matches and returns the matches. It fails when the program or ctx ends
// before.
func (p *Process) WaitLog(ctx context.Context, pattern *regexp.Regexp) ([]string, error) {
	err := p.poll(ctx, "output that matches "+pattern.String(), func() bool { return pattern.MatchString(p.Log()) })
	if err != nil {
		return nil, err
	}
	return pattern.FindStringSubmatch(p.Log()), nil
}

// WaitReady waits until ready says so. It fails when the program or ctx ends before.
func (p *Process) WaitReady(ctx context.Context, ready func() bool) error {
	return p.poll(ctx, "it to be ready", ready)
}

// poll asks often enough that nobody notices, and rarely enough that a slow start doesn't cost a core.
func (p *Process) poll(ctx context.Context, what string, ok func() bool) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-p.done:
			return fmt.Errorf("wait for %s of %s: it ended (%v); its output:\n%s", what, p.name, p.err, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s: %w; its output:\n%s", what, p.name, ctx.Err(), p.Log())
		case <-ticker.C:
		}
	}
	return nil
}

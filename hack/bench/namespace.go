package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// namespaceGrace is how long the bench in a network namespace may take to end its processes.
const namespaceGrace = 15 * time.Second

// inNamespace makes one comparison in a network namespace of its own, where nothing but this program lives: there
// this program runs again, and both the namespace and what is in it are gone when it ends, however it ends.
func (b *bench) inNamespace(ctx context.Context, comparison string) ([]row, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append(b.arguments(), "-in-namespace="+comparison)...)
	// It ends its own processes when asked to; it is killed only if it doesn't.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = namespaceGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, b.progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("bench in a network namespace: %w", err)
	}
	var rows []row
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		return nil, fmt.Errorf("bench in a network namespace: what it printed: %w", err)
	}
	return rows, nil
}

// noNamespace says why there can be no network namespace in which to use these tools; empty if there can.
func noNamespace(tools ...string) string {
	if os.Geteuid() != 0 {
		return "needs root, for a network namespace"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return "no " + tool + " here: apt-get install iproute2 util-linux"
		}
	}
	probe := exec.Command("ip", "link", "set", "lo", "up")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := probe.Run(); err != nil {
		return "needs CAP_SYS_ADMIN and CAP_NET_ADMIN, for a network namespace"
	}
	return ""
}

// enterNamespace begins in a new namespace. It refuses to touch a loopback that anybody else uses.
func enterNamespace(ctx context.Context) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			return errors.New("-in-namespace is for a network namespace of its own, where nothing is up: " + i.Name + " is")
		}
	}
	return tool(ctx, "ip", "link", "set", "lo", "up")
}

func tool(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

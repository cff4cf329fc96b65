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

	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	shapedName = "uncached pull at 1 Gbit/s"

	// shapedGrace is how long the bench in the namespace may take to end its processes.
	shapedGrace = 15 * time.Second
)

// pullShaped is pull with what the upstream sends held to a gigabit per second, as a node's line may be. It runs in
// a network namespace of its own, where nothing but this program lives.
func (b *bench) pullShaped(ctx context.Context) ([]row, error) {
	if why := cannotShape(); why != "" {
		return []row{{Name: shapedName, Unit: "s", Note: why}}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append(b.arguments(), "-in-namespace")...)
	// It ends its own processes when asked to; it is killed only if it doesn't.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = shapedGrace
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

func cannotShape() string {
	if os.Geteuid() != 0 {
		return "needs root, for a network namespace"
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "no " + tool + " here: apt-get install iproute2"
		}
	}
	return ""
}

// pullShapedHere runs in the namespace. It refuses to touch a loopback that anybody else uses.
func (b *bench) pullShapedHere(ctx context.Context) ([]row, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			return nil, errors.New("-in-namespace is for a network namespace of its own, where nothing is up: " + i.Name + " is")
		}
	}
	if err := tool(ctx, "ip", "link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	return b.pullFrom(ctx, shapedName, func(up *registrytest.Registry) error { return shape(ctx, up.DirectHost()) })
}

// shape holds what comes from one port to a gigabit per second. The rest of loopback, above all what Kioo sends to
// its clients, stays as fast as it is.
func shape(ctx context.Context, host string) error {
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return err
	}
	for _, args := range []string{
		"qdisc add dev lo root handle 1: htb default 0 r2q 1000",
		"class add dev lo parent 1: classid 1:10 htb rate 1gbit burst 256k",
		"filter add dev lo parent 1: protocol ip u32 match ip sport " + port + " 0xffff flowid 1:10",
	} {
		if err := tool(ctx, "tc", strings.Fields(args)...); err != nil {
			return err
		}
	}
	return nil
}

func tool(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

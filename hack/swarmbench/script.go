package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/process"
)

// stopTime is how long a script may take to end what it started.
const stopTime = 10 * time.Second

// startScripts starts another mirror on every node and waits until all are ready.
func (t *trial) startScripts(ctx context.Context) error {
	if t.script == "" {
		return nil
	}
	script, err := filepath.Abs(t.script)
	if err != nil {
		return err
	}
	var addresses []string
	for _, n := range t.fleet.Nodes {
		addresses = append(addresses, n.Addr.String())
	}
	for _, n := range t.fleet.Nodes {
		ready := filepath.Join(filepath.Dir(n.CertsDir()), "ready")
		p, err := n.Start(process.Config{Path: script, Dir: filepath.Dir(n.CertsDir()), Env: t.environment(n, addresses, ready)})
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		t.scripts = append(t.scripts, p)
		if err := p.WaitReady(ctx, func() bool {
			_, err := os.Stat(ready)
			return err == nil
		}); err != nil {
			return fmt.Errorf("%s: %s: %w", n.Name, t.script, err)
		}
	}
	return nil
}

func (t *trial) environment(n *fleet.Node, addresses []string, ready string) []string {
	return []string{
		"NODE_ADDR=" + n.Addr.String(), "NODES=" + strings.Join(addresses, " "), "CERTS_DIR=" + n.CertsDir(),
		"CONTAINERD_ADDRESS=" + n.Containerd.Address(), "CONTENT_DIR=" + n.Containerd.ContentDir(),
		"UPSTREAM=" + t.fleet.Upstream.Host(), "READY=" + ready,
	}
}

func (t *trial) stopScripts() {
	for _, p := range t.scripts {
		_ = p.Stop(stopTime) // How it ended is of no interest.
	}
}

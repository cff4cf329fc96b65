package containerdtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// unneeded are plugins that images need not: they look for devices and modules of the kernel, which takes time and
// fills the log. What a version does not have, it ignores.
var unneeded = []string{
	"io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.differ.v1.erofs",
	"io.containerd.mount-handler.v1.erofs",
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.restart",
	"io.containerd.monitor.container.v1.restart",
	"io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp",
	"io.containerd.monitor.task.v1.cgroups",
	"io.containerd.monitor.v1.cgroups",
}

func (c *Containerd) configure() error {
	for _, dir := range []string{c.root(), filepath.Join(c.dir, "state"), filepath.Join(c.dir, "cni")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if len(c.Address()) > 107 {
		return fmt.Errorf("socket %s: its path is too long", c.Address())
	}
	if err := os.WriteFile(c.configFile(), []byte(c.config()), 0o600); err != nil {
		return err
	}
	var err error
	c.conn, err = grpc.NewClient("unix://"+c.Address(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			// Tests wait for it.
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	return err
}

// config is config.toml. There is no oom_score in it, nor anything else that wants CAP_SYS_RESOURCE, and nothing of
// containers, so that cgroups don't matter.
func (c *Containerd) config() string {
	quoted := make([]string, len(unneeded))
	for i, name := range unneeded {
		quoted[i] = strconv.Quote(name)
	}
	version, images, runtime := 3, "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"
	if c.cfg.Version == V1 {
		version, images, runtime = 2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = %d\nroot = %q\nstate = %q\ndisabled_plugins = [%s]\n", version, c.root(),
		filepath.Join(c.dir, "state"), strings.Join(quoted, ", "))
	fmt.Fprintf(&b, "[grpc]\naddress = %q\n", c.Address())
	fmt.Fprintf(&b, "[ttrpc]\naddress = %q\n", c.Address()+".ttrpc")
	if runtime != images {
		fmt.Fprintf(&b, "[plugins.%q]\nsnapshotter = %q\ndiscard_unpacked_layers = %t\n", images, c.cfg.Snapshotter,
			c.cfg.DiscardUnpackedLayers)
	} else {
		fmt.Fprintf(&b, "[plugins.%q.containerd]\nsnapshotter = %q\ndiscard_unpacked_layers = %t\n", images,
			c.cfg.Snapshotter, c.cfg.DiscardUnpackedLayers)
	}
	fmt.Fprintf(&b, "[plugins.%q.registry]\nconfig_path = %q\n", images, c.cfg.CertsDir)
	// Its socket is at a place of its own, whatever the root, and several would fight over it.
	b.WriteString("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n")
	fmt.Fprintf(&b, "[plugins.%q.cni]\nconf_dir = %q\n", runtime, filepath.Join(c.dir, "cni"))
	b.WriteString(c.cfg.Settings)
	return b.String()
}

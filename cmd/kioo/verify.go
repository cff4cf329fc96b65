package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/logging"
	"github.com/spf13/cobra"
)

type verify struct {
	streams streams
	config  configFlags
}

func newVerify(s streams) *cobra.Command {
	c := &verify{streams: s}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check everything in the cache against its digest",
		Long: `Verify reads every blob of the cache and compares it with its digest. What does
not match is dropped, and fetched again when somebody next asks for it.

It may run while the mirror does. It ends with status 0 if everything matches,
and with status 1 if something was dropped or could not be read.`,
		Example: `  # The cache of a mirror with all defaults
  kioo verify

  # The cache of a mirror with a configuration
  kioo verify --config /etc/kioo/kioo.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.config.add(cmd)
	return cmd
}

func (c *verify) run(ctx context.Context) error {
	cfg, err := c.config.loadAlone()
	if err != nil {
		return err
	}
	dir := filepath.Join(cfg.DataDir, daemon.CacheDir)
	if _, err := os.Stat(dir); err != nil { // Else a mistyped directory would be a cache without faults.
		return fmt.Errorf("find the cache: %w", err)
	}
	report, err := cache.Verify(ctx, dir, c.progress())
	for _, d := range report.Dropped {
		fmt.Fprintf(c.streams.out, "dropped %s (%d bytes): %s\n", d.Digest, d.Size, d.Reason)
	}
	for _, path := range report.Strange {
		fmt.Fprintf(c.streams.out, "not ours, left alone: %s\n", path)
	}
	fmt.Fprintf(c.streams.out, "blobs checked: %d (%d bytes), dropped: %d, on their way: %d\n",
		report.Checked, report.Bytes, len(report.Dropped), report.InFlight)
	if err != nil {
		return err
	}
	if n := len(report.Dropped); n > 0 {
		return fmt.Errorf("dropped %d of %d blobs, which did not match their digests", n, report.Checked)
	}
	return nil
}

// progress gives a function that keeps a person at a terminal informed, or nil.
func (c *verify) progress() func(cache.Progress) {
	if !logging.IsTerminal(c.streams.err) {
		return nil
	}
	return func(p cache.Progress) {
		fmt.Fprintf(c.streams.err, "\r%d of %d blobs, %d of %d MiB ", p.Checked, p.Blobs, p.Bytes>>20, p.TotalBytes>>20)
		if p.Checked == p.Blobs {
			fmt.Fprintln(c.streams.err)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/logging"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/spf13/cobra"
)

// heapFloor is memory that is allocated but never touched, so that none of it is ever resident. It makes the garbage
// collector wait for as much real garbage: with the few MiB that a mirror has alive, it would run dozens of times a
// second under load otherwise, which costs a third of the throughput of small answers.
const heapFloor = 16 << 20

type serve struct {
	streams streams
	config  configFlags
	check   bool
	guide   bool
}

func newServe(s streams) *cobra.Command {
	c := &serve{streams: s}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the mirror",
		Long: `Serve runs the mirror until SIGTERM or Ctrl-C; then responses under way may
finish, and a second signal ends it at once.

Everything is configured in one YAML file, and everything has a default: see
docs/configuration.yaml. Flags exist only for what differs from node to node.
The log goes to standard error. Started on a terminal, serve prints how to use
the mirror.`,
		Example: `  # All defaults: http://127.0.0.1:28500, data in /var/lib/kioo or the user's cache directory
  kioo serve

  # With a configuration; what is mistyped in it stops the start and is named with its line
  kioo serve --config /etc/kioo/kioo.yaml

  # Look for mistakes in a configuration without starting, for example in CI
  kioo serve --config kioo.yaml --check

  # A second mirror beside the first; its configuration has metrics.listen: "" and health.listen: ""
  kioo serve --config second.yaml --listen 127.0.0.1:28600 --listen [::1]:28600 --data-dir ./second

  # A member of a fleet, of both IPv4 and IPv6; its configuration has peers.keyFiles
  kioo serve --config /etc/kioo/kioo.yaml --zone eu-central-1a \
    --peer-listen 10.0.0.5,fd00::5 --discovery-listen 10.0.0.5,fd00::5`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.config.add(cmd)
	c.config.addNode(cmd)
	cmd.Flags().BoolVar(&c.check, "check", false, "check the configuration and the files it names, then end")
	cmd.Flags().BoolVar(&c.guide, "guide", false, "print how to use the mirror, even if standard output is no terminal")
	return cmd
}

func (c *serve) run(ctx context.Context) error {
	cfg, err := c.config.load()
	if err != nil {
		return err
	}
	if c.check {
		if _, err := peer.LoadKeys(cfg.Peers.KeyFiles); err != nil {
			return fmt.Errorf("peers.keyFiles: %w", err)
		}
		_, err := fmt.Fprintln(c.streams.out, "The configuration is valid.")
		return err
	}
	log, err := logging.New(logging.Config{Writer: c.streams.err, Level: cfg.Log.Level, Format: cfg.Log.Format})
	if err != nil {
		return err
	}
	floor := make([]byte, heapFloor)
	defer runtime.KeepAlive(floor)
	build := readBuild()
	d, err := daemon.New(daemon.Config{Config: cfg, Log: log, Version: build.Version})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	var printing sync.WaitGroup
	if c.guide || logging.IsTerminal(c.streams.out) {
		printing.Go(func() {
			select {
			case <-d.Ready():
				g := guideFor(build.Version, cfg, d.Addrs(), d.MetricsAddr(), d.HealthAddr())
				if err := g.write(c.streams.out); err != nil { // The mirror runs all the same.
					log.Error(err, "print how to use the mirror")
				}
			case <-ended:
			}
		})
	}
	err = d.Run(ctx)
	close(ended)
	printing.Wait()
	return err
}

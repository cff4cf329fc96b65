package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/spf13/cobra"
)

// The exit codes. Scripts rely on them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// streams is where a command writes: what was asked for to out, everything else to err.
type streams struct{ out, err io.Writer }

// usageError is a command line that makes no sense.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// run executes one command line and returns the exit code. When ctx ends, so does the command, in good order.
func run(ctx context.Context, args []string, s streams) int {
	root := newRoot(s)
	root.SetArgs(append([]string{}, args...)) // Nil would mean the process's own.
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(s.err, "kioo: %v\n", err)
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(s.err, "Run '%s --help' for what there is.\n", usage.command)
		return exitUsage
	}
	return exitFailed
}

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "kioo",
		Short: "A registry mirror on this machine that answers for every registry",
		Long: `Kioo is a registry mirror on this machine that answers for every registry.

Clients pull through it from 127.0.0.1, whatever registry an image is from. What
was pulled before comes from this machine's disk, verified; what is asked for by
many at once is fetched once; and while a registry is down, what it last said
still counts. With a key in common, the mirrors of many machines give each other
what they hold.`,
		Example: `  # Start a mirror with all defaults, and read how to use it:
  kioo serve

  # Make containerd pull through it, and see whether it does:
  kioo configure
  kioo check

  # Pull through it by hand; the registry stands before the repository's name:
  curl http://127.0.0.1:28500/v2/quay.io/prometheus/busybox/manifests/latest`,
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{command: cmd.CommandPath(), err: err}
	})
	root.AddCommand(newServe(s), newConfigure(s), newCleanup(s), newCheck(s), newExplain(s), newRefresh(s),
		newPrefetch(s), newKey(s), newAwait(s), newVerify(s), newVersion(s))
	return root
}

// unknownCommand refuses what is no command, and says which one is probably meant.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("there is no command %q", args[0])
	if meant := cmd.SuggestionsFor(args[0]); len(meant) > 0 {
		err = fmt.Errorf("%w, did you mean %s?", err, strings.Join(meant, " or "))
	}
	return &usageError{command: cmd.CommandPath(), err: err}
}

// noArguments refuses arguments of commands that have only flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("%s takes flags only, got %q", cmd.CommandPath(), args[0])}
}

// configFlags are the flags of all commands that need a configuration.
type configFlags struct {
	file    string
	dataDir string
	// Those of the node, where it is a member.
	listen, peerListen, discoveryListen []string
	zone, nodeName                      string
}

func (f *configFlags) add(cmd *cobra.Command) {
	f.addFile(cmd)
	cmd.Flags().StringVar(&f.dataDir, "data-dir", "", "the `directory` of everything that the mirror keeps, whatever the configuration says")
}

func (f *configFlags) addFile(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "read the configuration from this `file` (default: all defaults)")
}

// addNode adds the flags for what differs from node to node.
func (f *configFlags) addNode(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.listen, "listen", nil,
		"listen on this `address` instead of those of mirror.listen; may be given several times")
	cmd.Flags().StringSliceVar(&f.peerListen, "peer-listen", nil,
		"serve other members on these `addresses` instead of those of peers.listen, such as\n"+
			"10.0.0.5 or 10.0.0.5:28501, with commas between them or given several times")
	cmd.Flags().StringSliceVar(&f.discoveryListen, "discovery-listen", nil,
		"be found by other members on these `addresses` instead of those of discovery.listen,\n"+
			"such as 10.0.0.5 or 10.0.0.5:28502, with commas between them or given several times")
	cmd.Flags().StringVar(&f.zone, "zone", "", "the `zone` of this node, instead of peers.zone")
	cmd.Flags().StringVar(&f.nodeName, "node-name", "", "the `name` of this node in Kubernetes, instead of kubernetes.nodeName")
}

// load gives the configuration with the flags applied.
func (f *configFlags) load() (*config.Config, error) {
	flags := []struct {
		field string
		given bool
		set   func(*config.Config)
	}{
		{"dataDir", f.dataDir != "", func(c *config.Config) { c.DataDir = f.dataDir }},
		{"mirror.listen", len(f.listen) > 0, func(c *config.Config) { c.Mirror.Listen = f.listen }},
		{"peers.listen", len(f.peerListen) > 0, func(c *config.Config) { c.Peers.Listen = f.peerListen }},
		{"discovery.listen", len(f.discoveryListen) > 0, func(c *config.Config) { c.Discovery.Listen = f.discoveryListen }},
		{"peers.zone", f.zone != "", func(c *config.Config) { c.Peers.Zone = f.zone }},
		{"kubernetes.nodeName", f.nodeName != "", func(c *config.Config) { c.Kubernetes.NodeName = f.nodeName }},
	}
	var later []string
	for _, flag := range flags {
		if flag.given {
			later = append(later, flag.field)
		}
	}
	cfg, err := f.read(later...)
	if err != nil {
		return nil, err
	}
	for _, flag := range flags {
		if flag.given {
			flag.set(cfg)
		}
	}
	return cfg, flagsFit(cfg)
}

// loadAlone gives the configuration for commands that are no member: of what peers and discovery need, the file may
// leave to the flags of serve what differs from node to node, and keys are none of their business.
func (f *configFlags) loadAlone() (*config.Config, error) {
	cfg, err := f.read("peers", "discovery")
	if err != nil {
		return nil, err
	}
	all := config.Default()
	cfg.Peers, cfg.Discovery = all.Peers, all.Discovery
	if f.dataDir != "" {
		cfg.DataDir = f.dataDir
	}
	return cfg, flagsFit(cfg)
}

// read gives what the file says; what is wrong with the later fields is left to flagsFit.
func (f *configFlags) read(later ...string) (*config.Config, error) {
	if f.file == "" {
		return config.Default(), nil
	}
	cfg, err := config.Load(f.file, later...)
	var invalid *config.Error
	if errors.As(err, &invalid) {
		return nil, fmt.Errorf("the configuration is not valid:\n%w", err)
	}
	return cfg, err
}

func flagsFit(cfg *config.Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("the flags do not go with the configuration:\n%w", err)
	}
	return nil
}

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
still counts.`,
		Example: `  # Start a mirror with all defaults, and read how to use it:
  kioo serve

  # Pull through it; the registry stands before the repository's name:
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
	root.AddCommand(newServe(s), newVerify(s), newVersion(s))
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
	listen  []string
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "read the configuration from this `file` (default: all defaults)")
	cmd.Flags().StringVar(&f.dataDir, "data-dir", "", "keep everything in this `directory`, whatever the configuration says")
}

// load gives the configuration with the flags applied.
func (f *configFlags) load() (*config.Config, error) {
	cfg := config.Default()
	if f.file != "" {
		var err error
		if cfg, err = config.Load(f.file); err != nil {
			var invalid *config.Error
			if errors.As(err, &invalid) {
				return nil, fmt.Errorf("the configuration is not valid:\n%w", err)
			}
			return nil, err
		}
	}
	if f.dataDir != "" {
		cfg.DataDir = f.dataDir
	}
	if len(f.listen) > 0 {
		cfg.Mirror.Listen = f.listen
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("the flags do not go with the configuration:\n%w", err)
	}
	return cfg, nil
}

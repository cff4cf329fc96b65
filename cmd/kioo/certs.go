package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/hosts"
	"github.com/spf13/cobra"
)

// certsFlags are the flags of the commands that know containerd's registry directory. What they do not say comes from
// the configuration.
type certsFlags struct {
	config     configFlags
	certsDir   string
	mirror     string
	registries []string
}

func (f *certsFlags) addDir(cmd *cobra.Command) {
	f.config.addFile(cmd)
	cmd.Flags().StringVar(&f.certsDir, "certs-dir", "",
		"containerd's registry `directory`, its config_path (default: containerd.certsDir, else "+hosts.DefaultRoot+")")
}

func (f *certsFlags) add(cmd *cobra.Command) {
	f.addDir(cmd)
	cmd.Flags().StringVar(&f.mirror, "mirror", "",
		"where containerd reaches the mirror, as `http://host:port` (default: the first of mirror.listen)")
	cmd.Flags().StringArrayVar(&f.registries, "registry", nil,
		"the `host` of a registry that goes through the mirror; may be given several times\n"+
			"(default: containerd.registries, else all registries)")
}

// load gives what to do to which directory, and the configuration that it comes from.
func (f *certsFlags) load() (hosts.Config, *config.Config, error) {
	cfg, err := f.config.loadAlone()
	if err != nil {
		return hosts.Config{}, nil, err
	}
	h := hosts.Config{Root: cfg.Containerd.CertsDir, Mirror: cfg.Mirror.URL(), Registries: cfg.Containerd.Registries}
	if f.certsDir != "" {
		h.Root = f.certsDir
	}
	if f.mirror != "" {
		h.Mirror = f.mirror
	}
	if len(f.registries) > 0 {
		h.Registries = f.registries
	}
	if h.Mirror == "" {
		return hosts.Config{}, nil, errors.New("mirror.listen leaves the port open: say with --mirror where the mirror is")
	}
	return h, cfg, nil
}

type configure struct {
	streams streams
	flags   certsFlags
}

func newConfigure(s streams) *cobra.Command {
	c := &configure{streams: s}
	cmd := &cobra.Command{
		Use:   "configure",
		Short: "Make containerd pull through the mirror",
		Long: `Configure puts the mirror first in the hosts.toml files of containerd's registry
directory, for all registries or for those you list. What is in the files stays;
what was there before is kept, and 'kioo cleanup' puts it back to the byte.

It may run again and again: what is right already is not touched. containerd
reads these files for every pull, so nothing has to be restarted, but its
config_path must name the directory: 'kioo check' says whether it does. A mirror
whose configuration has containerd.certsDir does all this itself, and does it
again when somebody edits the files.`,
		Example: `  # All registries, through the mirror at 127.0.0.1:28500
  kioo configure

  # Two registries only
  kioo configure --registry docker.io --registry registry.example.com:5000

  # As a configuration says, in another directory
  kioo configure --config /etc/kioo/kioo.yaml --certs-dir /etc/rancher/certs.d`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.flags.add(cmd)
	return cmd
}

func (c *configure) run(ctx context.Context) error {
	cfg, _, err := c.flags.load()
	if err != nil {
		return err
	}
	result, err := hosts.Configure(ctx, cfg)
	return errors.Join(printEntries(c.streams.out, result), wrap(err, "configure containerd's registries"))
}

type cleanup struct {
	streams streams
	flags   certsFlags
	purge   bool
	stay    bool
}

func newCleanup(s streams) *cobra.Command {
	c := &cleanup{streams: s}
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Undo what configure did, to the byte",
		Long: `Cleanup takes the mirror out of containerd's registry directory: files get back
their bytes, modes and links, and what was created is removed. From a file that
somebody edited since, only the mirror's entry is taken out.

Stop the mirror first if its configuration has containerd.certsDir, for it puts
everything back.`,
		Example: `  # The directory that most distributions use
  kioo cleanup

  # Another one
  kioo cleanup --certs-dir /etc/rancher/certs.d

  # And nothing is left of the cache, of which this asks the configuration
  kioo cleanup --config /etc/kioo/kioo.yaml --purge`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.flags.addDir(cmd)
	cmd.Flags().BoolVar(&c.purge, "purge", false, "delete what the mirror keeps in its data directory too")
	cmd.Flags().BoolVar(&c.stay, "stay", false, "do nothing more until SIGTERM, as the pod of a DaemonSet must")
	return cmd
}

func (c *cleanup) run(ctx context.Context) error {
	cfg, err := c.flags.config.loadAlone()
	if err != nil {
		return err
	}
	h := hosts.Config{Root: cfg.Containerd.CertsDir}
	if c.flags.certsDir != "" {
		h.Root = c.flags.certsDir
	}
	result, err := hosts.Cleanup(ctx, h)
	err = errors.Join(printEntries(c.streams.out, result), wrap(err, "clean up containerd's registries"))
	if c.purge {
		err = errors.Join(err, daemon.Purge(cfg.DataDir))
	}
	if err == nil && c.stay {
		<-ctx.Done()
	}
	return err
}

// printEntries prints what happened to which directory. Why one was refused is in the error that comes with it.
func printEntries(w io.Writer, result hosts.Result) error {
	for _, e := range result.Entries {
		line := fmt.Sprintf("%-9s  %s", e.Action, e.Dir)
		if e.Note != "" {
			line += "  (" + e.Note + ")"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if len(result.Entries) == 0 {
		_, err := fmt.Fprintln(w, "nothing to do")
		return err
	}
	return nil
}

// wrap says what failed, if anything did.
func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

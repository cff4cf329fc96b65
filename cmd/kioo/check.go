package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/hosts"
	"github.com/spf13/cobra"
)

// defaultSocket is where containerd listens if nobody says otherwise.
const defaultSocket = "/run/containerd/containerd.sock"

type check struct {
	streams  streams
	flags    certsFlags
	hostRoot string
	pull     bool
	output   string
}

func newCheck(s streams) *cobra.Command {
	c := &check{streams: s}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find what keeps containerd on this node from using the mirror",
		Long: `Check looks at this node: containerd's configuration, its registry directory,
socket and content store, and the mirror. It says what stands in the way, what
that does, and how to mend it, and it changes nothing.

Last, it has containerd pull an image that does not exist, and looks whether the
mirror heard of it: if so, all that lies between them is right. The mirror and
its metrics have to be up for that.

It ends with status 0 if nothing worse than a warning was found, and with status
1 if there is a problem.`,
		Example: `  # The mirror with all defaults
  kioo check

  # As a configuration says, for a script
  kioo check --config /etc/kioo/kioo.yaml -o json | jq -r '.findings[].id'

  # From a pod that mounts the node's root directory
  kioo check --host-root /host --certs-dir /host/etc/containerd/certs.d`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), cmd.CommandPath()) },
	}
	c.flags.add(cmd)
	cmd.Flags().StringVar(&c.hostRoot, "host-root", "",
		"the `directory` where the node's root is mounted; it goes before paths of containerd's configuration")
	cmd.Flags().BoolVar(&c.pull, "pull", true, "try whether a pull through containerd reaches the mirror")
	cmd.Flags().StringVarP(&c.output, "output", "o", "text", "print as text or json")
	return cmd
}

func (c *check) run(ctx context.Context, command string) error {
	if c.output != "text" && c.output != "json" {
		return &usageError{command: command, err: fmt.Errorf("--output is %q, expected text or json", c.output)}
	}
	h, cfg, err := c.flags.load()
	if err != nil {
		return err
	}
	if h.Root == "" {
		h.Root = hosts.DefaultRoot
	}
	socket := cfg.Containerd.Address
	if socket == "" {
		socket = filepath.Join(c.hostRoot, defaultSocket)
	}
	puller, err := newClient(socket)
	if err != nil {
		return err
	}
	defer puller.close()
	p := &probe{containerd: puller, metrics: cfg.Metrics.Listen, registries: h.Registries}
	node := hosts.CheckConfig{
		Config: h, ContainerdConfig: cfg.Containerd.ConfigFile, HostRoot: c.hostRoot,
		Socket: cfg.Containerd.Address, ContentDir: cfg.Containerd.ContentDir,
	}
	version, verr := containerd.Version(ctx, socket)
	node.Version = version
	if c.pull && verr == nil { // Who does not say its version can't be told to pull.
		node.Probe = p.run
	}
	found, err := hosts.Check(ctx, node)
	if err != nil {
		return err
	}
	return c.print(complete(found, verr, p.blind))
}

// complete adds what only this command knows: that containerd does not answer, or that the mirror can't be watched.
func complete(found []hosts.Finding, silent, blind error) []hosts.Finding {
	known := func(id string) bool {
		return slices.ContainsFunc(found, func(f hosts.Finding) bool { return f.ID == id })
	}
	if silent != nil && !known("socket-unreachable") {
		found = append(found, hosts.Finding{
			ID: "containerd-silent", Severity: hosts.Problem,
			What: "something listens on containerd's socket, and does not answer: " + silent.Error(),
			Why:  "Kioo can't know which images the node has, and nobody can pull.",
			Mend: "Look into containerd's log, and restart it.",
		})
	}
	if blind != nil {
		found = append(found, hosts.Finding{
			ID: "pull-not-tried", Severity: hosts.Warning,
			What: "whether a pull reaches the mirror was not tried: " + blind.Error(),
			Why:  "The mirror counts such pulls in its metrics, so without them nobody can tell.",
			Mend: "Start the mirror with metrics.listen set, or leave this out with --pull=false.",
		})
	}
	slices.SortStableFunc(found, func(a, b hosts.Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return found
}

// finding is one finding in JSON. Scripts rely on its fields.
type finding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	What     string `json:"what"`
	Why      string `json:"why"`
	Mend     string `json:"mend"`
}

// print writes the findings, and fails if one of them is a problem.
func (c *check) print(found []hosts.Finding) error {
	count := make(map[hosts.Severity]int)
	for _, f := range found {
		count[f.Severity]++
	}
	var err error
	if c.output == "json" {
		list := make([]finding, len(found))
		for i, f := range found {
			list[i] = finding{f.ID, f.Severity.String(), f.What, f.Why, f.Mend}
		}
		enc := json.NewEncoder(c.streams.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(map[string][]finding{"findings": list})
	} else {
		err = printFindings(c.streams.out, found)
	}
	if n := count[hosts.Problem]; err == nil && n > 0 {
		err = errors.New("found " + plural(n, "problem"))
	}
	return err
}

func printFindings(w io.Writer, found []hosts.Finding) error {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s: %s [%s]\n", f.Severity, indent(f.What), f.ID)
		fmt.Fprintf(&b, "  why:  %s\n", indent(f.Why))
		if f.Mend != "" {
			fmt.Fprintf(&b, "  mend: %s\n", indent(f.Mend))
		}
		b.WriteByte('\n')
	}
	if len(found) == 0 {
		b.WriteString("Nothing stands in the way: containerd on this node uses the mirror.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// indent puts the further lines of a text, such as those of a file to write, below its first.
func indent(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i, line := range lines {
		if i > 0 && line != "" {
			lines[i] = "        " + line
		}
	}
	return strings.Join(lines, "\n")
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

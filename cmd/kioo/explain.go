package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/spf13/cobra"
)

type explain struct {
	streams streams
	config  configFlags
	output  string
}

func newExplain(s streams) *cobra.Command {
	c := &explain{streams: s}
	cmd := &cobra.Command{
		Use:   "explain IMAGE...",
		Short: "Say what would be asked where for an image, and why",
		Long: `Explain says for an image which rules of the configuration hold for it, who would
be asked for its manifest, in which order, with whose credentials, and why. The
first that has an answer ends it. Nobody is asked.`,
		Example: `  # As all defaults have it
  kioo explain nginx:latest

  # As a configuration has it
  kioo explain --config /etc/kioo/kioo.yaml quay.io/org/app:v1

  # The servers that would be asked, for a script
  kioo explain quay.io/org/app:v1 -o json | jq -r '.[].steps[].url | select(.)'`,
		Args: someImages,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), cmd.CommandPath(), args) },
	}
	c.config.addFile(cmd)
	cmd.Flags().StringVarP(&c.output, "output", "o", "text", "print as text or json")
	return cmd
}

// someImages refuses commands about images that name none, or something else.
func someImages(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("%s needs an image, such as docker.io/library/nginx:1.27", cmd.CommandPath())}
	}
	for _, image := range args {
		if _, err := reference.Parse(image); err != nil {
			return &usageError{command: cmd.CommandPath(), err: err}
		}
	}
	return nil
}

func (c *explain) run(ctx context.Context, command string, images []string) error {
	if c.output != "text" && c.output != "json" {
		return &usageError{command: command, err: fmt.Errorf("--output is %q, expected text or json", c.output)}
	}
	cfg, err := c.config.read("peers", "discovery")
	if err != nil {
		return err
	}
	p, err := policy.New(cfg)
	if err != nil {
		return err
	}
	around := policy.Surroundings{
		Containerd: cfg.Containerd.Address != "", Members: len(cfg.Peers.KeyFiles) > 0,
		Own: func(repo reference.Repository, server string) string {
			return upstream.Whose(ctx, cfg.Credentials.DockerConfig, server, repo.Path)
		},
	}
	var plans []policy.Plan
	for _, image := range images {
		ref, err := reference.Parse(image)
		if err != nil {
			return err
		}
		plans = append(plans, p.Explain(ref, around))
	}
	if c.output == "json" {
		enc := json.NewEncoder(c.streams.out)
		enc.SetIndent("", "  ")
		return enc.Encode(plans)
	}
	for _, plan := range plans {
		if err := writePlan(c.streams.out, plan); err != nil {
			return err
		}
	}
	return nil
}

func writePlan(w io.Writer, plan policy.Plan) error {
	text := plan.Reference + "\n  route: " + plan.Route + "\n"
	if plan.Tag != "" {
		text += "  tag:   " + plan.Tag + "\n"
	}
	for i, s := range plan.Steps {
		text += fmt.Sprintf("  %d. %-8s %s\n", i+1, s.Who, s.Why)
		if s.URL != "" {
			text += "              " + s.URL + "\n"
		}
		if s.Credentials != "" {
			text += "              with whose credentials: " + s.Credentials + "\n"
		}
	}
	_, err := io.WriteString(w, text)
	return err
}

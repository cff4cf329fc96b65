package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/spf13/cobra"
)

type refresh struct {
	streams streams
	config  configFlags
}

func newRefresh(s streams) *cobra.Command {
	c := &refresh{streams: s}
	cmd := &cobra.Command{
		Use:   "refresh IMAGE...",
		Short: "Forget what a tag meant, on all nodes",
		Long: `Refresh has the mirror on this machine, and by it all other members, forget what
a tag meant: the next pull hears what the registry says now. Images themselves
stay where they are.

It ends with status 1 if a member could not be told; that one forgets when the
tag's time is up. Only root and the mirror's own user may ask, by the socket
control.sock in its data directory.`,
		Example: `  # A tag was moved, and all nodes should see it at once
  kioo refresh quay.io/org/app:main

  # With the mirror's own configuration, which says where its socket is
  kioo refresh --config /etc/kioo/kioo.yaml quay.io/org/app:main`,
		Args: someImages,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.config.add(cmd)
	return cmd
}

func (c *refresh) run(ctx context.Context, images []string) error {
	cfg, err := c.config.loadAlone()
	if err != nil {
		return err
	}
	var failed []string
	for _, image := range images {
		body, err := ask(ctx, cfg, daemon.RefreshPath, url.Values{"image": {image}})
		if err != nil {
			return err
		}
		var answer daemon.Refreshed
		err = json.NewDecoder(body).Decode(&answer)
		body.Close()
		if err != nil {
			return fmt.Errorf("read the mirror's answer: %w", err)
		}
		fmt.Fprintf(c.streams.out, "%s: forgotten here and by %d other members\n", image, answer.Members)
		failed = append(failed, answer.Failed...)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d members could not be told: %s", len(failed), strings.Join(failed, ", "))
	}
	return nil
}

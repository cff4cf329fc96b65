package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/kioo-dev/kioo/pkg/logging"
	"github.com/kioo-dev/kioo/pkg/prefetch"
	"github.com/spf13/cobra"
)

type warmUp struct {
	streams streams
	config  configFlags
	zones   []string
	copies  int
	here    bool
}

func newPrefetch(s streams) *cobra.Command {
	c := &warmUp{streams: s}
	cmd := &cobra.Command{
		Use:   "prefetch IMAGE...",
		Short: "Bring images into the caches of nodes before somebody asks for them",
		Long: `Prefetch has nodes bring images into their caches, each for its own platform:
all nodes, those of some zones, or some number of them. They share the bytes, so
that the registry sends each about once.

On a terminal it shows how far they are. At the end it says what each node has,
and ends with status 1 if one of them failed. Only root and the mirror's own user
may ask, by the socket control.sock in its data directory.`,
		Example: `  # On all nodes
  kioo prefetch quay.io/org/app:v2

  # On three nodes of a zone, from where others will get it
  kioo prefetch --zone eu-central-1a --copies 3 quay.io/org/model:v1

  # On this node alone
  kioo prefetch --this-node nginx:1.27 redis:8`,
		Args: someImages,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), cmd.CommandPath(), args) },
	}
	c.config.add(cmd)
	cmd.Flags().StringArrayVar(&c.zones, "zone", nil, "nodes of this `zone` only; may be given several times")
	cmd.Flags().IntVar(&c.copies, "copies", 0, "this `number` of nodes only; 0 is all of them")
	cmd.Flags().BoolVar(&c.here, "this-node", false, "this node only")
	return cmd
}

func (c *warmUp) run(ctx context.Context, command string, images []string) error {
	if c.copies < 0 {
		return &usageError{command: command, err: fmt.Errorf("--copies is %d, expected a number of nodes", c.copies)}
	}
	cfg, err := c.config.loadAlone()
	if err != nil {
		return err
	}
	query := url.Values{"image": images, "zone": c.zones, "copies": {strconv.Itoa(c.copies)}}
	if c.here {
		query.Set("here", "1")
	}
	body, err := ask(ctx, cfg, daemon.PrefetchPath, query)
	if err != nil {
		return err
	}
	defer body.Close()
	state, err := c.follow(body)
	if err != nil {
		return err
	}
	return c.summary(state)
}

// follow reads progress until its end, and shows it on a terminal.
func (c *warmUp) follow(body io.Reader) (map[string]prefetch.Progress, error) {
	state := make(map[string]prefetch.Progress)
	terminal := logging.IsTerminal(c.streams.err)
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		var p prefetch.Progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return nil, fmt.Errorf("read progress: %w", err)
		}
		state[p.Image+" on "+p.Node] = p
		if terminal {
			fmt.Fprintf(c.streams.err, "\r%s", bar(state))
		}
	}
	if terminal {
		fmt.Fprintln(c.streams.err)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read progress: %w", err)
	}
	for name, p := range state {
		if !p.Done {
			return nil, fmt.Errorf("the mirror on this machine broke off before %s was there", name)
		}
	}
	if len(state) == 0 {
		return nil, errors.New("the mirror on this machine broke off")
	}
	return state, nil
}

// bar shows all nodes' progress together in one line.
func bar(state map[string]prefetch.Progress) string {
	const width = 30
	var bytes, total int64
	done := 0
	for _, p := range state {
		bytes += p.Bytes
		total += p.Total
		if p.Done {
			done++
		}
	}
	filled := 0
	if total > 0 {
		filled = int(width * min(bytes, total) / total)
	}
	return fmt.Sprintf("[%s%s] %d of %d done, %s of %s  ", strings.Repeat("=", filled), strings.Repeat(" ", width-filled),
		done, len(state), plainBytes(bytes), plainBytes(total))
}

func plainBytes(n int64) string {
	if n >= 1<<20 {
		n = n >> 20 << 20 // Nobody reads the rest.
	}
	return config.Bytes(n).String()
}

// summary says what each node has.
func (c *warmUp) summary(state map[string]prefetch.Progress) error {
	var names []string
	for name := range state {
		names = append(names, name)
	}
	slices.Sort(names)
	failed := 0
	var fetched int64
	for _, name := range names {
		p := state[name]
		fetched += p.Fetched
		if p.Error != "" {
			failed++
			fmt.Fprintf(c.streams.out, "%s: failed: %s\n", name, p.Error)
			continue
		}
		fmt.Fprintf(c.streams.out, "%s: %s, %s, of which %s were fetched\n", name, p.Digest, plainBytes(p.Total), plainBytes(p.Fetched))
	}
	fmt.Fprintf(c.streams.out, "images on nodes: %d, failed: %d, fetched: %s\n", len(names), failed, plainBytes(fetched))
	if failed > 0 {
		return fmt.Errorf("%d of %d could not be brought in", failed, len(names))
	}
	return nil
}

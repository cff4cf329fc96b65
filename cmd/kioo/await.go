package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/cluster"
	"github.com/spf13/cobra"
)

type await struct {
	streams    streams
	daemonSet  string
	timeout    time.Duration
	kubeconfig string
}

func newAwait(s streams) *cobra.Command {
	c := &await{streams: s}
	cmd := &cobra.Command{
		Use:   "await",
		Short: "Wait until the pods of a DaemonSet are ready on all nodes",
		Long: `Await is for the hooks of the Helm chart, whose image has nothing but kioo: it
waits until a DaemonSet's pods are ready on all nodes, and fails if they are not
within the time given.`,
		Example: `  # In a pod whose service account may read the DaemonSet
  kioo await --daemonset kioo-system/kioo-cleanup --timeout 5m`,
		Args:   noArguments,
		Hidden: true,
		RunE:   func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), cmd.CommandPath()) },
	}
	cmd.Flags().StringVar(&c.daemonSet, "daemonset", "", "the DaemonSet, as `namespace/name`")
	cmd.Flags().DurationVar(&c.timeout, "timeout", 5*time.Minute, "how `long` to wait")
	cmd.Flags().StringVar(&c.kubeconfig, "kubeconfig", "", "the `file` that says where the API is (default: the pod's service account)")
	return cmd
}

func (c *await) run(ctx context.Context, command string) error {
	namespace, name, ok := strings.Cut(c.daemonSet, "/")
	if !ok || namespace == "" || name == "" {
		return &usageError{command: command, err: errors.New("--daemonset wants a namespace and a name, such as kioo-system/kioo")}
	}
	client, err := cluster.Connect(c.kubeconfig, "kioo-await/"+readBuild().Version)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := cluster.AwaitDaemonSet(ctx, client, namespace, name); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.streams.out, "DaemonSet %s is ready on all nodes\n", c.daemonSet)
	return err
}

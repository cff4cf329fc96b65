package main

import (
	"fmt"

	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/spf13/cobra"
)

func newKey(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "key",
		Short: "Print a new cluster key",
		Long: `Key prints a new random key for a fleet. Every member needs the same one, in a
file that peers.keyFiles names: it is what tells members from strangers, and
whoever has it reads what members hold. Keep it as you keep a password.

To change the key of a running fleet, list the new file before the old one on
every node, and once all have both, the new one alone.`,
		Example: `  # A file for the nodes, readable by its owner only
  (umask 077; kioo key > cluster.key)

  # A Secret for Kubernetes
  kioo key | kubectl create secret generic kioo-key --from-file=key=/dev/stdin`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.out, peer.NewKey())
			return err
		},
	}
}

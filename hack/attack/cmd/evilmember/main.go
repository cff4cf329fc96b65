// Command evilmember is a member of a cluster that was taken over, for the attack suite.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "evilmember:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("evilmember", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var cfg evilmember.Config
	address := func(into *netip.AddrPort, name, usage string) {
		flags.Func(name, usage, func(s string) (err error) {
			*into, err = netip.ParseAddrPort(s)
			return err
		})
	}
	flags.StringVar(&cfg.KeyFile, "key", "", "file of the cluster's key")
	flags.StringVar(&cfg.DataDir, "data", "", "directory of the member's identity")
	address(&cfg.PeerAPI, "peer", "address of the peer API")
	address(&cfg.DHT, "dht", "address of the DHT")
	address(&cfg.Control, "control", "address where the attacker says what to do")
	flags.Func("bootstrap", "addresses of others' DHT, with commas between them", func(s string) error {
		for one := range strings.SplitSeq(s, ",") {
			at, err := netip.ParseAddrPort(one)
			if err != nil {
				return err
			}
			cfg.Bootstrap = append(cfg.Bootstrap, at)
		}
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	member, err := evilmember.New(cfg)
	if err != nil {
		return err
	}
	return member.Run(ctx)
}

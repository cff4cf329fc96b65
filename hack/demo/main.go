// Command demo shows what Kioo does: it runs a few nodes with containerd and Kioo on this machine, pulls one image on
// all of them, and prints where the bytes came from.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	name     = "demo/app:v1"
	pullTime = 5 * time.Minute
	// settleTime is how long the nodes may take to find each other.
	settleTime = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: stopped, and everything is cleaned up")
		os.Exit(130) // As a shell says of what SIGINT ended.
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	nodes          int
	link, upstream int64 // Mbit/s
	size           int64 // MiB
	together       bool
	containerd     string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.nodes, "nodes", 5, "how many nodes there are")
	flags.Int64Var(&o.link, "link", 1000, "Mbit/s of each node's link; 0 for no limit")
	flags.Int64Var(&o.upstream, "upstream", 100, "Mbit/s of the upstream registry's link; 0 for no limit")
	flags.Int64Var(&o.size, "size", 64, "MiB of the image")
	flags.BoolVar(&o.together, "together", false, "let all nodes pull at the same time, instead of one before the others")
	flags.StringVar(&o.containerd, "containerd", string(containerdtest.V2), "containerd's release on all nodes")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 || o.nodes < 1 || o.size < 1 || o.link < 0 || o.upstream < 0 {
		return options{}, errors.New("needs at least one node, one MiB, and no arguments")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	order := "node-1 pulls it first, then all others at once"
	if o.together {
		order = "all nodes pull it at once"
	}
	fmt.Fprintf(stdout, "%d nodes with containerd %s and Kioo, in network namespaces with links of %s, and a registry with %s.\n",
		o.nodes, o.containerd, speed(o.link), speed(o.upstream))
	fmt.Fprintf(stdout, "An image of %d MiB: %s. ^C ends it; nothing is left behind.\n\n", o.size, order)
	f, err := fleet.New(ctx, fleet.Config{
		Nodes:      o.nodes,
		Link:       fleet.Link{Rate: o.link * 1e6},
		Upstream:   fleet.Link{Rate: o.upstream * 1e6},
		Containerd: containerdtest.Version(o.containerd),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d := &demo{options: o, fleet: f, out: stdout}
	return d.run(ctx)
}

func speed(mbits int64) string {
	switch {
	case mbits == 0:
		return "no limit"
	case mbits%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", mbits/1000)
	default:
		return fmt.Sprintf("%d Mbit/s", mbits)
	}
}

// demo is one run.
type demo struct {
	options
	fleet *fleet.Fleet
	out   io.Writer
	total int64 // What a pull fetches, manifests aside.
}

func (d *demo) run(ctx context.Context) error {
	if err := d.settle(ctx); err != nil {
		return err
	}
	if err := d.push(ctx); err != nil {
		return err
	}
	pulls := make([]*pull, len(d.fleet.Nodes))
	for i, n := range d.fleet.Nodes {
		pulls[i] = &pull{node: n}
	}
	screen := newScreen(d.out, d.total, pulls)
	err := d.pullAll(ctx, pulls)
	screen.close()
	if err != nil {
		return err
	}
	return d.report(ctx, pulls)
}

// settle waits until every node knows all others.
func (d *demo) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return d.fleet.Settle(ctx)
}

// push gives upstream an image of four layers.
func (d *demo) push(ctx context.Context) error {
	layer := d.size << 20 / 4
	img, err := registrytest.NewImage(uint64(time.Now().UnixNano()), v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		layer, layer, layer, layer)
	if err != nil {
		return err
	}
	if _, err := d.fleet.Upstream.Push(ctx, name, img); err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	d.total = 4*layer + int64(len(config))
	return err
}

// pullAll pulls on all nodes and gives the first error.
func (d *demo) pullAll(ctx context.Context, pulls []*pull) error {
	ctx, cancel := context.WithTimeout(ctx, pullTime)
	defer cancel()
	image := d.fleet.Upstream.Image(name)
	rest := pulls
	if !d.together {
		if err := pulls[0].run(ctx, image); err != nil {
			return err
		}
		rest = pulls[1:]
	}
	var (
		pulling sync.WaitGroup
		errs    = make([]error, len(rest))
	)
	for i, p := range rest {
		pulling.Go(func() { errs[i] = p.run(ctx, image) })
	}
	pulling.Wait()
	return errors.Join(errs...)
}

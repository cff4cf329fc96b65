// Command bench compares Kioo with what it must not be worse than, on one machine, and prints a table.
//
// Everything is measured in one run and in turns, A B A B, so that whatever else the machine does hits both alike.
// It runs a real upstream registry, Kioo as a process and nginx as a process, and ends them all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	rounds  int
	size    int64         // of the held blob, of a peer's and, halved, of the image, in bytes
	slice   time.Duration // one turn of the manifests
	clients int           // connections that ask for manifests
	json    bool
	only    string
	program string // Kioo, built; empty builds it
	before  string // another Kioo, built, which the comparison "peer" measures too; empty for none
	inside  string // the comparison that this process makes inside a network namespace
}

func parse(args []string, stderr io.Writer) (options, error) {
	var (
		o     options
		flags = flag.NewFlagSet("bench", flag.ContinueOnError)
		mib   int64
	)
	flags.SetOutput(stderr)
	flags.IntVar(&o.rounds, "rounds", 5, "turns of each side in each comparison")
	flags.Int64Var(&mib, "size", 1024, "MiB of the held blob and of a peer's; the image that is pulled has half of it")
	flags.DurationVar(&o.slice, "slice", time.Second, "length of one turn of the requests for manifests")
	flags.IntVar(&o.clients, "clients", 32, "connections that ask for manifests at the same time")
	flags.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flags.StringVar(&o.only, "only", "", "run only the comparisons whose name contains this: held, manifests, pull, shaped, peer")
	flags.StringVar(&o.program, "kioo", "", "a built kioo to measure, instead of this tree's")
	flags.StringVar(&o.before, "before", "", "a built kioo of an earlier version with the same configuration, that the comparison peer sets beside this one")
	flags.StringVar(&o.inside, "in-namespace", "", "internal: make this comparison in this network namespace: shaped, peer")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	o.size = mib << 20
	if flags.NArg() > 0 || o.rounds < 1 || mib < 4 || o.slice <= 0 || o.clients < 1 {
		return options{}, errors.New("needs at least one round, 4 MiB, one client, a slice of time, and no arguments")
	}
	return o, nil
}

// arguments are the flags that make another bench measure the same.
func (o options) arguments() []string {
	return []string{
		fmt.Sprintf("-rounds=%d", o.rounds), fmt.Sprintf("-size=%d", o.size>>20), "-kioo=" + o.program,
		"-before=" + o.before, "-json",
	}
}

// bench is one run of this program.
type bench struct {
	options
	dir      string
	progress io.Writer
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kioo-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, dir: dir, progress: stderr}
	if b.program == "" {
		b.say("building kioo")
		if b.program, err = process.Build(ctx, kiootest.Package, dir); err != nil {
			return err
		}
	}
	start := time.Now()
	rows, err := b.all(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx) // What fails then, fails because of that.
	}
	if err != nil {
		return err
	}
	if b.json {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	}
	return printTable(stdout, rows, machine(), time.Since(start))
}

func (b *bench) all(ctx context.Context) ([]row, error) {
	if b.inside != "" {
		return b.here(ctx)
	}
	var rows []row
	for _, comparison := range []struct {
		name string
		run  func(context.Context) ([]row, error)
	}{
		{"held", b.held},
		{"manifests", b.manifests},
		{"pull", b.pull},
		{"shaped", b.pullShaped},
		{"peer", b.peer},
	} {
		if !strings.Contains(comparison.name, b.only) {
			continue
		}
		more, err := comparison.run(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", comparison.name, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// here makes the one comparison for which this process is in a network namespace of its own.
func (b *bench) here(ctx context.Context) ([]row, error) {
	comparison := map[string]func(context.Context) ([]row, error){"shaped": b.pullShapedHere, "peer": b.peerHere}[b.inside]
	if comparison == nil {
		return nil, errors.New("-in-namespace: no comparison of that name: " + b.inside)
	}
	if err := enterNamespace(ctx); err != nil {
		return nil, err
	}
	return comparison(ctx)
}

// say tells who waits what is being done.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "bench: "+format+"\n", args...)
}

// mkdir makes an empty directory of its own for one comparison.
func (b *bench) mkdir(name string) (string, error) { return os.MkdirTemp(b.dir, name+"-") }

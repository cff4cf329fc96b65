// Command swarmbench measures how long N nodes take to pull one image at the same instant, on real nodes: network
// namespaces with shaped links, each with a real containerd that is asked through CRI, and one real upstream registry.
// It compares pulls without a mirror, through Kioo, and through any other mirror that a script starts, with what the
// links allow at best.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "swarmbench:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	only    *regexp.Regexp
	size    int64 // MB
	direct  bool
	list    bool
	kioo    string
	scripts scripts
}

// scripts are other mirrors: name=file each.
type scripts []system

// String implements flag.Value.
func (s *scripts) String() string {
	var names []string
	for _, other := range *s {
		names = append(names, other.name+"="+other.script)
	}
	return strings.Join(names, " ")
}

// Set implements flag.Value.
func (s *scripts) Set(value string) error {
	name, file, ok := strings.Cut(value, "=")
	if !ok || name == "" {
		return errors.New("want name=script")
	}
	if _, err := os.Stat(file); err != nil {
		return err
	}
	*s = append(*s, system{name: name, script: file})
	return nil
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{only: regexp.MustCompile("")}
	flags := flag.NewFlagSet("swarmbench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Func("only", "measure only scenarios whose name this regular expression matches", func(v string) (err error) {
		o.only, err = regexp.Compile(v)
		return err
	})
	flags.Int64Var(&o.size, "size", 100, "MB of the image, in two layers")
	flags.BoolVar(&o.direct, "direct", true, "also pull without any mirror, where a scenario compares with that")
	flags.BoolVar(&o.list, "list", false, "print the scenarios and end")
	flags.StringVar(&o.kioo, "kioo", "", "the built program; this tree's by default")
	flags.Var(&o.scripts, "mirror", "name=script: also measure a mirror that the script starts on each node and waits for.\n"+
		"It finds NODE_ADDR, NODES (addresses), CERTS_DIR, CONTAINERD_ADDRESS, CONTENT_DIR and UPSTREAM in its environment,\n"+
		"runs in the node's network namespace, and creates the file READY when containerd may pull. May be repeated")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 || o.size < 1 {
		return options{}, errors.New("needs at least one MB, and no arguments")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.list {
		for _, s := range scenarios() {
			fmt.Fprintln(stdout, s.name)
		}
		return nil
	}
	if why := fleet.Unavailable(); why != "" {
		return errors.New(why)
	}
	if o.kioo == "" {
		dir, err := os.MkdirTemp("", "kioo-swarmbench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if o.kioo, err = process.Build(ctx, kiootest.Package, dir); err != nil {
			return err
		}
	}
	began := time.Now()
	t := newTable(stdout, o.size)
	var failed error
	for _, s := range scenarios() {
		if !o.only.MatchString(s.name) {
			continue
		}
		for _, sys := range s.systems(o) {
			fmt.Fprintf(stderr, "swarmbench: %s: %s\n", s.name, sys.name)
			r, err := measure(ctx, o, s, sys)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %s: %w", s.name, sys.name, err))
				t.fail(s, sys)
				continue
			}
			t.add(s, sys, r)
		}
	}
	return errors.Join(t.print(time.Since(began)), failed)
}

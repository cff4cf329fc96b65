// Command release puts together what a release of Kioo has, from binaries and an image that are built already:
// archives, SBOMs, the chart as a package, and checksums. Then it reads all of it back, and fails if a file is not what
// it claims.
//
// It is made of its input and the flags alone, so the same input gives the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	dir     string
	root    string // The repository's.
	version string
	date    time.Time // When its commit was made.
	image   string
	helm    string

	binaries []binary
}

type binary struct{ system, architecture, path string }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := cfg.write(ctx); err != nil {
		return err
	}
	return check(ctx, cfg, stdout)
}

func parse(args []string) (config, error) {
	var cfg config
	var date string
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: release [flags] linux/amd64=BINARY [linux/arm64=BINARY ...]")
		flags.PrintDefaults()
	}
	flags.StringVar(&cfg.dir, "output", "bin/release", "write to this `directory`, which must be empty or not there")
	flags.StringVar(&cfg.root, "root", ".", "the repository's `directory`")
	flags.StringVar(&cfg.version, "version", "", "the release's `version`, such as v1.2.3")
	flags.StringVar(&date, "date", "", "when its commit was made, in RFC 3339")
	flags.StringVar(&cfg.image, "image", "", "the `file` that hack/image wrote of the same binaries")
	flags.StringVar(&cfg.helm, "helm", "helm", "the `program` that packages the chart")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if flags.NArg() == 0 || cfg.version == "" || cfg.image == "" {
		flags.Usage()
		return config{}, errors.New("needs a version, an image and at least one binary")
	}
	var err error
	if cfg.date, err = time.Parse(time.RFC3339, date); err != nil {
		return config{}, fmt.Errorf("date: %w", err)
	}
	for _, arg := range flags.Args() {
		platform, path, ok := strings.Cut(arg, "=")
		system, architecture, ok2 := strings.Cut(platform, "/")
		if !ok || !ok2 {
			return config{}, fmt.Errorf("%q is not PLATFORM=BINARY", arg)
		}
		cfg.binaries = append(cfg.binaries, binary{system, architecture, path})
	}
	return cfg, nil
}

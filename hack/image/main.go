// Command image writes kioo's container image as a file, with nothing but Go: no engine and no base image.
//
// The file is an OCI image layout as a tar archive, with one image per platform, and at the same time what docker load
// reads: its first platform. It is made of the binaries and the flags alone, so the same build gives the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var cfg config
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: image [flags] linux/amd64=BINARY [linux/arm64=BINARY ...]")
		flags.PrintDefaults()
	}
	flags.StringVar(&cfg.output, "output", "kioo-image.tar", "write the image to this `file`")
	flags.StringVar(&cfg.name, "name", "", "the image's full `name` with its tag")
	flags.StringVar(&cfg.version, "version", "devel", "the `version` that the image's labels say")
	flags.StringVar(&cfg.revision, "revision", "", "the `revision` that the image's labels say")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 || cfg.name == "" {
		flags.Usage()
		return errors.New("needs a name and at least one binary")
	}
	for _, arg := range flags.Args() {
		platform, path, ok := strings.Cut(arg, "=")
		system, architecture, ok2 := strings.Cut(platform, "/")
		if !ok || !ok2 {
			return fmt.Errorf("%q is not PLATFORM=BINARY", arg)
		}
		cfg.binaries = append(cfg.binaries, binary{system, architecture, path})
	}
	return write(cfg)
}

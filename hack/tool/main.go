// Command tool prints where a pinned Go program is, such as helm.sh/helm/v3/cmd/helm@v3.19.4, and builds it before if
// that is still to be done: once per user, for the Makefile and for the tests, which ask hack/process themselves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"strings"
	"syscall"

	"github.com/kioo-dev/kioo/hack/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) != 1 {
		return errors.New("needs one PROGRAM@VERSION")
	}
	pkg, version, ok := strings.Cut(args[0], "@")
	if !ok || pkg == "" || version == "" {
		return fmt.Errorf("%q is not PROGRAM@VERSION", args[0])
	}
	if !process.Installed(pkg, version) {
		fmt.Fprintf(stderr, "Building %s %s, once: this takes a few minutes.\n", path.Base(pkg), version)
	}
	program, err := process.Install(ctx, pkg, version)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, program)
	return err
}

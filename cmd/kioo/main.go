// Command kioo is a registry mirror for one machine: a pull-only registry on loopback that answers for every upstream
// registry.
//
// This package owns the command line: flags, help, what is printed, exit codes. What the commands do is in the
// packages below pkg.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // An image from scratch has no authorities of its own.
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // Who signals a second time does not want to wait for an orderly end.
	os.Exit(run(ctx, os.Args[1:], streams{out: os.Stdout, err: os.Stderr}))
}

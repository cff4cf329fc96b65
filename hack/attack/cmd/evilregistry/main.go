// Command evilregistry is an attacker's registry: it answers by rules, and writes down what it hears.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "evilregistry:", err)
		os.Exit(1)
	}
}

// run serves the same registry at all addresses until ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("evilregistry", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:5004", "addresses, with commas between them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server := &http.Server{Handler: &evilregistry.Server{}, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, strings.Count(*listen, ",")+1)
	started := 0
	for address := range strings.SplitSeq(*listen, ",") {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return errors.Join(err, server.Close())
		}
		started++
		go func() { ended <- server.Serve(l) }()
	}
	<-ctx.Done()
	err := server.Close()
	for range started {
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
	}
	return err
}

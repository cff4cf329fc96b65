// Command agent is the only program of the images that the end-to-end tests pull: it waits, ends, or says what it can
// reach.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// patience bounds one attempt to reach something.
const patience = 3 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch args := os.Args[1:]; {
	case len(args) == 0:
		<-ctx.Done()
	case args[0] == "end":
	default:
		for _, target := range args {
			fmt.Printf("%s: %s\n", target, reach(target))
		}
	}
}

// reach says how far one gets at an address, with or without a scheme.
func reach(target string) string {
	if !strings.Contains(target, "://") {
		conn, err := net.DialTimeout("tcp", target, patience)
		if err != nil {
			return "closed"
		}
		conn.Close()
		return "open"
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		// Whoever answers: what is asked is whether a stranger is served.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	resp, err := client.Get(target)
	if err != nil {
		return "refused"
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp.Status
}

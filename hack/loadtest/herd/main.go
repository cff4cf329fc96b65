// Command herd is many clients that read one blob at the same time and compare every byte with a file.
//
// It is a program of its own, so that two hundred clients take no turns from the proxy that counts for a test. It
// prints one line when all have asked, and ends with status 0 when all have read the right bytes.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "herd:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("herd", flag.ContinueOnError)
	var (
		url     = flags.String("url", "", "what to read")
		file    = flags.String("file", "", "the bytes that must come")
		digest  = flags.String("digest", "", "their digest")
		clients = flags.Int("clients", 200, "how many clients")
		timeout = flags.Duration("timeout", 5*time.Minute, "how long all may take")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	want, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	// Once: that bytes are the same says no less than that their digests are, and leaves the processor to others.
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(want)); got != *digest {
		return fmt.Errorf("%s has digest %s, want %s", *file, got, *digest)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	h := &herd{url: *url, want: want, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	return h.read(ctx, *clients, stdout)
}

type herd struct {
	url    string
	want   []byte
	client *http.Client
}

func (h *herd) read(ctx context.Context, clients int, stdout io.Writer) error {
	var asked sync.WaitGroup
	group, ctx := errgroup.WithContext(ctx)
	for i := range clients {
		asked.Add(1)
		group.Go(func() error {
			if err := h.readOnce(ctx, sync.OnceFunc(asked.Done)); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			return nil
		})
	}
	asked.Wait()
	if _, err := fmt.Fprintln(stdout, "all have asked"); err != nil {
		return err
	}
	return group.Wait()
}

func (h *herd) readOnce(ctx context.Context, asked func()) error {
	defer asked() // Also when it never came to that.
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked() }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, h.url, nil)
	if err != nil {
		return err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return compare(resp.Body, h.want)
}

// compare fails at the first byte that differs, is missing or too many.
func compare(r io.Reader, want []byte) error {
	buf := make([]byte, 256<<10)
	var n int
	for {
		m, err := r.Read(buf)
		if m > len(want)-n || !bytes.Equal(buf[:m], want[n:n+m]) {
			return fmt.Errorf("wrong bytes between %d and %d", n, n+m)
		}
		n += m
		if err == io.EOF && n == len(want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/kioo-dev/kioo/pkg/config"
)

// ask has the mirror that runs on this machine do something. The caller closes the answer.
func ask(ctx context.Context, cfg *config.Config, path string, query url.Values) (io.ReadCloser, error) {
	socket := cfg.ControlSocket()
	u := url.URL{Scheme: "http", Host: "localhost", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	resp, err := transport.RoundTrip(req)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return nil, fmt.Errorf("the mirror on this machine takes orders only from root and its own user: %w", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no mirror takes orders at %s: does it run, and with the same --config or --data-dir? %w", socket, err)
	case err != nil:
		return nil, fmt.Errorf("ask the mirror on this machine: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	why, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return nil, fmt.Errorf("ask the mirror on this machine: %w", err)
	}
	return nil, fmt.Errorf("the mirror on this machine says: %s", strings.TrimSpace(string(why)))
}

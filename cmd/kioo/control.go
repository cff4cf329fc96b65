package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/kioo-dev/kioo/pkg/config"
)

// ask has the mirror that runs on this machine do something. The caller closes the answer.
func ask(ctx context.Context, cfg *config.Config, path string, query url.Values) (io.ReadCloser, error) {
	if cfg.Metrics.Listen == "" {
		return nil, errors.New("metrics.listen is empty, and it is there that the mirror on this machine is asked")
	}
	u := url.URL{Scheme: "http", Host: onLoopback(cfg.Metrics.Listen), Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req) // Without a proxy: it is here.
	if err != nil {
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

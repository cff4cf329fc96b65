package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
)

// manifests compares asking for a small manifest that Kioo holds with nginx serving a file of the same bytes, first
// with neither of them logging and then with a line per request from both.
func (b *bench) manifests(ctx context.Context) ([]row, error) {
	if _, err := findNginx(); errors.Is(err, errNoNginx) {
		return []row{{Name: "manifests", Unit: "requests/s", Note: err.Error()}}, nil
	}
	up, err := registrytest.Start(ctx, registrytest.Config{})
	if err != nil {
		return nil, err
	}
	defer up.Close()
	img, err := push(ctx, up, "small", 2, 10_000, 10_000, 10_000, 10_000)
	if err != nil {
		return nil, err
	}
	quiet, err := b.manifestsOnce(ctx, "manifests", up, img, false)
	if err != nil {
		return nil, err
	}
	logging, err := b.manifestsOnce(ctx, "manifests, both logging", up, img, true)
	return append(quiet, logging...), err
}

func (b *bench) manifestsOnce(ctx context.Context, name string, up *registrytest.Registry, img image, logging bool) ([]row, error) {
	dir, err := b.mkdir("manifests")
	if err != nil {
		return nil, err
	}
	kioo, err := b.startKioo(ctx, dir, up, func(cfg *config.Config) {
		if !logging {
			cfg.Log.Level = "error"
		}
	})
	if err != nil {
		return nil, err
	}
	defer stopKioo(kioo)
	body, err := get(ctx, through(kioo).manifest(img.manifest))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return nil, err
	}
	ngx, err := startNginx(ctx, dir, nginxOptions{logging: logging}, served{"/manifest", file, string(img.manifest.MediaType)})
	if err != nil {
		return nil, err
	}
	defer ngx.close()

	target, err := target(through(kioo), img.manifest)
	if err != nil {
		return nil, err
	}
	kiooLoad, err := newLoad(ctx, kioo.Host, target, body, b.clients)
	if err != nil {
		return nil, err
	}
	defer kiooLoad.close()
	nginxLoad, err := newLoad(ctx, ngx.host, "/manifest", body, b.clients)
	if err != nil {
		return nil, err
	}
	defer nginxLoad.close()
	rows, err := b.manifestRounds(ctx, name, kiooLoad, nginxLoad)
	if err != nil {
		return nil, err
	}
	peak, err := peakRow(name, kioo)
	return append(rows, peak), err
}

func (b *bench) manifestRounds(ctx context.Context, name string, kioo, nginx *load) ([]row, error) {
	var rate, p50, p99 pairs
	for round := -1; round < b.rounds; round++ { // The first one warms up and is forgotten.
		b.say("%s: round %d of %d", name, round+1, b.rounds)
		k, err := kioo.turn(ctx, b.slice)
		if err != nil {
			return nil, err
		}
		n, err := nginx.turn(ctx, b.slice)
		if err != nil {
			return nil, err
		}
		if round >= 0 {
			rate.add(k.rate, n.rate)
			p50.add(k.p50, n.p50)
			p99.add(k.p99, n.p99)
		}
	}
	return []row{
		rate.ratio(name, "requests/s", "nginx", atLeast(0.5)),
		p50.ratio(name+": p50", "ms", "nginx", nil),
		p99.ratio(name+": p99", "ms", "nginx", atMost(2)),
	}, nil
}

func target(from source, d v1.Descriptor) (string, error) {
	u, err := url.Parse(from.manifest(d))
	if err != nil {
		return "", err
	}
	return u.RequestURI(), nil
}

func get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	c := newClient()
	defer c.close()
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("get " + from + ": status " + resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// Package kiootest runs Kioo as its users do, as a process with a configuration file, for tests and benchmarks.
//
// It owns the configuration that such a Kioo starts from and the finding of free ports. What runs before and behind
// it are others' concern.
package kiootest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/pkg/config"
)

const (
	// Package is the program that process.Build builds.
	Package = "./cmd/kioo"

	startTime = 30 * time.Second
	stopTime  = 10 * time.Second
)

// Config gives the configuration of a Kioo that keeps everything below dir and knows the registries by the URLs of
// their endpoints. The mirror's port is any free one, metrics and health are off, and the log is as a cluster has it.
func Config(dir string, endpoints map[string]string) *config.Config {
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.Mirror.Listen = []string{"127.0.0.1:0"}
	cfg.Metrics.Listen, cfg.Health.Listen = "", ""
	cfg.Log = config.Log{Level: "info", Format: "json"}
	for host, url := range endpoints {
		r := config.DefaultRegistry()
		r.Match, r.Endpoints = host, []config.Endpoint{config.EndpointAt(url)}
		cfg.Registries = append(cfg.Registries, r)
	}
	return cfg
}

// Kioo is a Kioo that runs as a process.
type Kioo struct {
	*process.Process

	// Host is the address of its mirror.
	Host string
	// File is its configuration file.
	File string
}

// URL is the mirror's.
func (k *Kioo) URL() string { return "http://" + k.Host }

// Start runs a built program with a configuration, written into dir, until Close. It returns when the mirror
// answers. A port of 0 becomes a free one, for good: whoever starts the same configuration again finds it there.
func Start(ctx context.Context, program, dir string, cfg *config.Config) (*Kioo, error) {
	if err := fixPort(cfg); err != nil {
		return nil, fmt.Errorf("start kioo: %w", err)
	}
	data, err := file(cfg)
	if err != nil {
		return nil, fmt.Errorf("start kioo: write its configuration: %w", err)
	}
	k := &Kioo{Host: cfg.Mirror.Listen[0], File: filepath.Join(dir, "kioo.yaml")}
	if err := os.WriteFile(k.File, data, 0o600); err != nil {
		return nil, fmt.Errorf("start kioo: %w", err)
	}
	k.Process, err = process.Start(process.Config{Path: program, Args: []string{"serve", "--config", k.File}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := k.WaitReady(ctx, func() bool { return answers(ctx, k.URL()) }); err != nil {
		k.Kill()
		return nil, err
	}
	return k, nil
}

// Close ends Kioo as Kubernetes does, and says so if it did not end well.
func (k *Kioo) Close() error { return k.Stop(stopTime) }

// Verify runs kioo verify on the same configuration and returns what it printed. The
// mirror may run meanwhile.
func (k *Kioo) Verify(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "verify", "--config", k.File).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kioo verify: %w\n%s", err, out)
	}
	return string(out), nil
}

// file writes what differs from the defaults, as people do. So a program that is older than this tree understands it.
func file(cfg *config.Config) ([]byte, error) {
	var settings, defaults map[string]any
	for c, into := range map[*config.Config]*map[string]any{cfg: &settings, config.Default(): &defaults} {
		data, err := yaml.Marshal(c)
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(data, into); err != nil {
			return nil, err
		}
	}
	delete(defaults, "apiVersion") // Required.
	delete(defaults, "kind")
	return yaml.Marshal(without(settings, defaults))
}

func without(settings, defaults map[string]any) map[string]any {
	differ := map[string]any{}
	for name, value := range settings {
		section, isSection := value.(map[string]any)
		if isSection {
			if inner, ok := defaults[name].(map[string]any); ok {
				section = without(section, inner)
			}
			if len(section) > 0 {
				differ[name] = section
			}
			continue
		}
		if !reflect.DeepEqual(value, defaults[name]) {
			differ[name] = value
		}
	}
	return differ
}

func fixPort(cfg *config.Config) error {
	host, port, err := net.SplitHostPort(cfg.Mirror.Listen[0])
	if err != nil {
		return err
	}
	if port != "0" {
		return nil
	}
	cfg.Mirror.Listen[0], err = FreeAddress(host)
	return err
}

// FreeAddress gives an address with a port that nobody listens on at the moment.
func FreeAddress(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

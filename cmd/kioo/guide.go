package main

import (
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/hosts"
)

// guide is what the screen says that greets who starts a mirror by hand.
type guide struct {
	Version  string
	Base     string // http://host:port with the path prefix.
	Host     string // host:port, empty if a path prefix keeps clients out that know hosts only.
	More     []string
	Metrics  string
	Health   string
	Default  string
	DataDir  string
	MaxBytes config.Bytes
	CertsDir string // Empty if containerd's registry directory is not the mirror's affair.
}

const (
	guideAsk = `
Ask for something twice: the second time it comes from this disk.

  curl -i '%s/v2/library/alpine/manifests/latest?ns=docker.io'
`
	guidePull = `  crane pull %[1]s/quay.io/prometheus/busybox:latest busybox.tar
  skopeo copy --src-tls-verify=false docker://%[1]s/docker.io/library/alpine:latest dir:alpine
  docker pull %[1]s/docker.io/library/alpine:latest
`
	guideHooked = `
containerd pulls through it: the hosts.toml files in %s are kept
for that, and 'kioo cleanup' undoes it. 'kioo check' finds what stands in the way.
`
	guideConfigure = `
containerd pulls through it once its config_path is %s and you ran

  kioo configure%s

'kioo check' finds what stands in the way, and 'kioo cleanup' undoes it.
`
	guideByHand = `
containerd pulls through it when its config_path is %[1]s and
%[1]s/_default/hosts.toml says:

  [host."%[2]s"]
    capabilities = ["pull", "resolve"]
`
	guideEnd = `
Ctrl-C stops it. 'kioo serve --help' and docs/configuration.yaml tell the rest.

`
)

// write gives the guide. It is no template: with those in a program the linker keeps every method of every type.
func (g guide) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nKioo %s: one registry mirror on this machine, for images of every registry.\n\n", g.Version)
	fmt.Fprintf(&b, "  mirror   %s/v2/\n", g.Base)
	for _, base := range g.More {
		fmt.Fprintf(&b, "           %s/v2/\n", base)
	}
	if g.Metrics != "" {
		fmt.Fprintf(&b, "  metrics  http://%s/metrics\n", g.Metrics)
	}
	if g.Health != "" {
		fmt.Fprintf(&b, "  health   http://%s/readyz  (also /healthz)\n", g.Health)
	}
	fmt.Fprintf(&b, "  data     %s  (at most %v)\n", g.DataDir, g.MaxBytes)
	fmt.Fprintf(&b, guideAsk, g.Base)
	if g.Host != "" {
		fmt.Fprintf(&b, guidePull, g.Host)
	}
	switch {
	case g.CertsDir != "":
		fmt.Fprintf(&b, guideHooked, g.CertsDir)
	case g.Host != "":
		flags := ""
		if g.Base != "http://127.0.0.1:28500" {
			flags = " --mirror " + g.Base
		}
		fmt.Fprintf(&b, guideConfigure, hosts.DefaultRoot, flags)
	default:
		fmt.Fprintf(&b, guideByHand, hosts.DefaultRoot, g.Base)
	}
	b.WriteString(guideEnd)
	_, err := io.WriteString(w, b.String())
	return err
}

// guideFor makes the guide to a mirror that listens on these addresses, of which the last two may be nil.
func guideFor(version string, cfg *config.Config, mirror []net.Addr, metrics, health net.Addr) guide {
	g := guide{
		Version:  version,
		Base:     "http://" + onLoopback(mirror[0].String()) + cfg.Mirror.PathPrefix,
		DataDir:  cfg.DataDir,
		MaxBytes: cfg.Cache.MaxBytes,
		CertsDir: cfg.Containerd.CertsDir,
	}
	if cfg.Mirror.PathPrefix == "" {
		g.Host = onLoopback(mirror[0].String())
	}
	for _, addr := range mirror[1:] {
		g.More = append(g.More, "http://"+onLoopback(addr.String())+cfg.Mirror.PathPrefix)
	}
	if metrics != nil {
		g.Metrics = onLoopback(metrics.String())
	}
	if health != nil {
		g.Health = health.String()
	}
	return g
}

package main

import (
	"io"
	"net"
	"text/template"

	"github.com/kioo-dev/kioo/pkg/config"
)

// guide is what the screen says that greets who starts a mirror by hand.
type guide struct {
	Version  string
	Base     string // http://host:port with the path prefix.
	Host     string // host:port, empty if a path prefix keeps clients out that know hosts only.
	More     []string
	Metrics  string
	Default  string
	DataDir  string
	MaxBytes config.Bytes
}

var guideText = template.Must(template.New("guide").Parse(`
Kioo {{.Version}}: one registry mirror on this machine, for images of every registry.

  mirror   {{.Base}}/v2/{{range .More}}
           {{.}}/v2/{{end}}
{{- if .Metrics}}
  metrics  http://{{.Metrics}}/metrics  (also /healthz, /readyz)
{{- end}}
  data     {{.DataDir}}  (at most {{.MaxBytes}})

Ask for something twice: the second time it comes from this disk.

  curl -i '{{.Base}}/v2/library/alpine/manifests/latest?ns=docker.io'
{{- if .Host}}
  crane pull {{.Host}}/quay.io/prometheus/busybox:latest busybox.tar
  skopeo copy --src-tls-verify=false docker://{{.Host}}/docker.io/library/alpine:latest dir:alpine
  docker pull {{.Host}}/docker.io/library/alpine:latest
{{- end}}

containerd pulls everything through it when its config_path is /etc/containerd/certs.d and
/etc/containerd/certs.d/_default/hosts.toml says:

  [host."{{.Base}}"]
    capabilities = ["pull", "resolve"]

Ctrl-C stops it. 'kioo serve --help' and docs/configuration.yaml tell the rest.

`))

// guideFor makes the guide to a mirror that listens on these addresses.
func guideFor(version string, cfg *config.Config, mirror []net.Addr, metrics net.Addr) guide {
	g := guide{
		Version:  version,
		Base:     "http://" + reachable(mirror[0]) + cfg.Mirror.PathPrefix,
		DataDir:  cfg.DataDir,
		MaxBytes: cfg.Cache.MaxBytes,
	}
	if cfg.Mirror.PathPrefix == "" {
		g.Host = reachable(mirror[0])
	}
	for _, addr := range mirror[1:] {
		g.More = append(g.More, "http://"+reachable(addr)+cfg.Mirror.PathPrefix)
	}
	if metrics != nil {
		g.Metrics = reachable(metrics)
	}
	return g
}

// reachable gives an address that a client on this machine can use: one that listens everywhere listens on loopback.
func reachable(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (g guide) write(w io.Writer) error { return guideText.Execute(w, g) }

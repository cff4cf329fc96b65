package main

import (
	"io"
	"net"
	"text/template"

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

// DefaultCertsDir is where containerd's registry directory most often is.
func (guide) DefaultCertsDir() string { return hosts.DefaultRoot }

var guideText = template.Must(template.New("guide").Parse(`
Kioo {{.Version}}: one registry mirror on this machine, for images of every registry.

  mirror   {{.Base}}/v2/{{range .More}}
           {{.}}/v2/{{end}}
{{- if .Metrics}}
  metrics  http://{{.Metrics}}/metrics
{{- end}}
{{- if .Health}}
  health   http://{{.Health}}/readyz  (also /healthz)
{{- end}}
  data     {{.DataDir}}  (at most {{.MaxBytes}})

Ask for something twice: the second time it comes from this disk.

  curl -i '{{.Base}}/v2/library/alpine/manifests/latest?ns=docker.io'
{{- if .Host}}
  crane pull {{.Host}}/quay.io/prometheus/busybox:latest busybox.tar
  skopeo copy --src-tls-verify=false docker://{{.Host}}/docker.io/library/alpine:latest dir:alpine
  docker pull {{.Host}}/docker.io/library/alpine:latest
{{- end}}

{{if .CertsDir -}}
containerd pulls through it: the hosts.toml files in {{.CertsDir}} are kept
for that, and 'kioo cleanup' undoes it. 'kioo check' finds what stands in the way.
{{- else if .Host -}}
containerd pulls through it once its config_path is {{.DefaultCertsDir}} and you ran

  kioo configure{{if ne .Base "http://127.0.0.1:28500"}} --mirror {{.Base}}{{end}}

'kioo check' finds what stands in the way, and 'kioo cleanup' undoes it.
{{- else -}}
containerd pulls through it when its config_path is {{.DefaultCertsDir}} and
{{.DefaultCertsDir}}/_default/hosts.toml says:

  [host."{{.Base}}"]
    capabilities = ["pull", "resolve"]
{{- end}}

Ctrl-C stops it. 'kioo serve --help' and docs/configuration.yaml tell the rest.

`))

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

func (g guide) write(w io.Writer) error { return guideText.Execute(w, g) }

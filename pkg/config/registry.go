package config

import (
	"slices"
	"strings"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// Registry gives what holds for one registry, by its host as reference.ParseRegistry gives it: its own entry, else the
// one for all others, else the defaults. Host is the registry's, and the endpoints' URLs have it where a variable was.
// Without endpoints the registry is asked at its own name.
func (c *Config) Registry(host string) Registry {
	r := DefaultRegistry()
	for _, candidate := range []string{host, AnyRegistry} {
		if i := slices.IndexFunc(c.Registries, func(r Registry) bool { return r.Host == candidate }); i >= 0 {
			r = c.Registries[i]
			break
		}
	}
	r.Host = host
	server := host
	if host == reference.DockerHub {
		server = "registry-1.docker.io" // Docker Hub's name in images is not where its registry answers.
	}
	r.Endpoints = slices.Clone(r.Endpoints)
	for i := range r.Endpoints {
		r.Endpoints[i].URL = strings.Replace(r.Endpoints[i].URL, RegistryVariable, server, 1)
	}
	return r
}

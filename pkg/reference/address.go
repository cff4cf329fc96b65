package reference

import (
	"net"
	"strings"
)

// Server is the host that answers for a registry: its name, but for Docker Hub's.
func Server(registry string) string {
	if registry == DockerHub {
		return hubServer
	}
	return registry
}

// BaseURL is where a registry answers if nothing else is configured: at its own name, without TLS on this machine.
func BaseURL(registry string) string {
	if IsLoopback(registry) {
		return "http://" + registry
	}
	return "https://" + Server(registry)
}

// IsLoopback tells whether a registry's name, with or without a port, says that it is on this machine.
func IsLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// Command containerd24 answers with what the hosts parser of containerd 2.4 makes of registry directories.
//
// It reads one JSON object {"root", "host"} per line and writes one answer per line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/containerd/containerd/v2/core/remotes/docker/config"
)

type question struct{ Root, Host string }

type host struct {
	Scheme, Host, Path, Transport string
	Capabilities                  int
	Header                        http.Header
	SkipVerify                    bool
	Authorities, Certificates     int
}

type answer struct {
	Hosts []host
	Error string
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(ask(q)); err != nil {
			os.Exit(1)
		}
	}
}

func ask(q question) answer {
	options := config.HostOptions{HostDir: config.HostDirFromRoot(q.Root)}
	hosts, err := config.ConfigureHosts(context.Background(), options)(q.Host)
	if err != nil {
		return answer{Error: err.Error()}
	}
	var a answer
	for _, h := range hosts {
		v := host{Scheme: h.Scheme, Host: h.Host, Path: h.Path, Capabilities: int(h.Capabilities), Header: h.Header}
		v.Transport = fmt.Sprintf("%T", h.Client.Transport)
		if t, ok := h.Client.Transport.(*http.Transport); ok {
			v.SkipVerify = t.TLSClientConfig.InsecureSkipVerify
			v.Certificates = len(t.TLSClientConfig.Certificates)
			if pool := t.TLSClientConfig.RootCAs; pool != nil {
				//lint:ignore SA1019 Whether the system's are counted does not matter: they are the same each time.
				v.Authorities = len(pool.Subjects())
			}
		}
		a.Hosts = append(a.Hosts, v)
	}
	return a
}

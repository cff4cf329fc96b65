package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
)

var errNoNginx = errors.New("no nginx here: apt-get install nginx-light")

// nginx is an nginx that serves single files.
type nginx struct {
	*process.Process
	host string
}

// served is a file that nginx serves at a path.
type served struct{ path, file, mediaType string }

// nginxConfig serves files as well as nginx can: by sendfile, with connections that never end for their age.
const nginxConfig = `
daemon off;
%[1]s
worker_processes auto;
pid %[2]s/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000000;
	keepalive_timeout 300s;
	access_log %[3]s;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	server {
		listen %[4]s;
%[5]s%[6]s	}
}
`

// nginxTLS makes it speak TLS to its clients, without what OpenSSL could leave to the kernel: that is off by default.
const nginxTLS = `
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.3;
`

// nginxOptions say how nginx serves.
type nginxOptions struct {
	// logging makes it write a line per request.
	logging bool
	// address is where it listens. Empty: any of loopback's.
	address string
	// wrapper is the command that runs nginx; empty runs it here.
	wrapper []string
	// tls is for HTTPS; nil is for HTTP.
	tls *certificate
}

// startNginx runs nginx until it is stopped.
func startNginx(ctx context.Context, dir string, o nginxOptions, files ...served) (*nginx, error) {
	path, err := findNginx()
	if err != nil {
		return nil, err
	}
	n := &nginx{host: o.address}
	if n.host == "" {
		if n.host, err = kiootest.FreeAddress("127.0.0.1"); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(nginxText(dir, n.host, o, files)), 0o600); err != nil {
		return nil, err
	}
	line := append(slices.Clone(o.wrapper), path, "-p", dir, "-e", "stderr", "-c", file)
	if n.Process, err = process.Start(process.Config{Path: line[0], Args: line[1:]}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = n.WaitReady(ctx, func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", n.host)
		return err == nil && conn.Close() == nil
	})
	if err != nil {
		n.Kill()
		return nil, err
	}
	return n, nil
}

// nginxText is its configuration.
func nginxText(dir, host string, o nginxOptions, files []served) string {
	var locations strings.Builder
	for _, f := range files {
		fmt.Fprintf(&locations, "\t\tlocation = %s { default_type %s; alias %s; }\n", f.path, f.mediaType, f.file)
	}
	user, accessLog := "", "off"
	if os.Geteuid() == 0 {
		user = "user root;" // Its workers must reach files that only we may read.
	}
	if o.logging {
		accessLog = filepath.Join(dir, "access.log")
	}
	listen, security := host, ""
	if o.tls != nil {
		listen, security = host+" ssl", fmt.Sprintf(nginxTLS, o.tls.file, o.tls.key)
	}
	return fmt.Sprintf(nginxConfig, user, dir, accessLog, listen, security, locations.String())
}

// close asks first: a killed master leaves its workers behind.
func (n *nginx) close() {
	if err := n.Stop(5 * time.Second); err != nil {
		n.Kill()
	}
}

func findNginx() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errNoNginx
}

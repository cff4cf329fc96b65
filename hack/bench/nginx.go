package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
%[5]s	}
}
`

// startNginx runs nginx until it is stopped. Logging makes it write a line per request.
func startNginx(ctx context.Context, dir string, logging bool, files ...served) (*nginx, error) {
	path, err := findNginx()
	if err != nil {
		return nil, err
	}
	n := &nginx{}
	if n.host, err = kiootest.FreeAddress("127.0.0.1"); err != nil {
		return nil, err
	}
	var locations strings.Builder
	for _, f := range files {
		fmt.Fprintf(&locations, "\t\tlocation = %s { default_type %s; alias %s; }\n", f.path, f.mediaType, f.file)
	}
	user, accessLog := "", "off"
	if os.Geteuid() == 0 {
		user = "user root;" // Its workers must reach files that only we may read.
	}
	if logging {
		accessLog = filepath.Join(dir, "access.log")
	}
	config := fmt.Sprintf(nginxConfig, user, dir, accessLog, n.host, locations.String())
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	n.Process, err = process.Start(process.Config{Path: path, Args: []string{"-p", dir, "-e", "stderr", "-c", file}})
	if err != nil {
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

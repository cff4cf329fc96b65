package daemon_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestNamesStayNames has endpoints that are made of the name that a client chose. Configured as they are, nobody
// configured where they lead: names that are addresses inside are refused as they are without endpoints.
func TestNamesStayNames(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Close()
		<-served
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, stop := start(t, rulesOf(t, `
registries:
  - {match: "*/plain/*", endpoints: [{url: "http://{registry}"}]}
  - {match: "*/second/*", endpoints: [{url: "http://{registry}/v1", repository: "x/{repository}"}, {url: "http://{registry}"}]}
`))
	for _, path := range []string{"plain/app", "second/app"} {
		for _, host := range []string{"0.0.0.0", "[::]", "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "168.63.129.16", "[fd00:ec2::23]", "192.0.0.192", "100.100.100.200", "127.1"} {
			name := fmt.Sprintf("%s:%s", host, port)
			code, body := get(t, "http://"+d.Addrs()[0].String()+"/v2/"+path+"/manifests/v1?ns="+name)
			if code < 400 || !strings.Contains(body, "upstream.networks") && !strings.Contains(body, "NAME_INVALID") {
				t.Errorf("%s of %s: %d, %s", path, name, code, body)
			}
		}
		if n := asked.Swap(0); n > 0 {
			t.Errorf("%s: this machine was asked %d times", path, n)
		}
		// Whoever names this machine means it.
		get(t, "http://"+d.Addrs()[0].String()+"/v2/"+path+"/manifests/v1?ns=127.0.0.1:"+port)
		if asked.Swap(0) == 0 {
			t.Errorf("%s: a registry on this machine was not asked", path)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

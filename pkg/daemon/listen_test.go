package daemon_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/opencontainers/go-digest"
)

// knock sends one request over a connection of its own, as no client of the standard library would.
func knock(t *testing.T, addr net.Addr, request string) (status int, body string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, request+"Connection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return resp.StatusCode, string(data)
}

// TestNamesOfListeners asks all that is on TCP by names that a web page could have lead here, and as a page would.
func TestNamesOfListeners(t *testing.T) {
	upstream, manifest, asked := upstreamOf(t, "a layer")
	cfg := rulesOf(t, "registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\n")
	cfg.Mirror.Hosts, cfg.Metrics.Hosts = []string{"mirror.example.com"}, []string{"node1"}
	d, stop := start(t, cfg)
	paths := map[net.Addr]string{
		d.Addrs()[0]: "/v2/org/app/manifests/v1?ns=registry.example.com", d.MetricsAddr(): "/metrics", d.HealthAddr(): "/healthz",
	}
	for addr, path := range paths {
		for head, want := range map[string]int{
			"Host: evil.example\r\n": 421, "Host: evil.example:28500\r\n": 421, "Host:\r\n": 421, "": 400,
			"Host: 127.0.0.1\r\nHost: evil.example\r\n":           400,
			"Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n":   403,
			"Host: 127.0.0.1\r\nOrigin: https://evil.example\r\n": 403,
			"Host: 0.0.0.0\r\n":                           421,
			"Host: localhost\r\nSec-Fetch-Site: none\r\n": 200,
			"Host: " + addr.String() + "\r\n":             200,
		} {
			before := asked.Load()
			status, body := knock(t, addr, "GET "+path+" HTTP/1.1\r\n"+head)
			if status != want {
				t.Errorf("%s with %q: %d, want %d", path, head, status, want)
			}
			if status != 200 && (asked.Load() != before || strings.Contains(body, manifest) || strings.Contains(body, "kioo_")) {
				t.Errorf("%s with %q: something was given away: %s", path, head, body)
			}
		}
	}
	status, body := knock(t, d.Addrs()[0], "GET /v2/ HTTP/1.1\r\nHost: evil.example\r\n")
	var oci struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &oci); err != nil || status != 421 || len(oci.Errors) != 1 ||
		oci.Errors[0].Code != "DENIED" || !strings.Contains(oci.Errors[0].Message, "mirror.hosts") {
		t.Errorf("%d, %v: %s", status, err, body)
	}
	if status, _ := knock(t, d.Addrs()[0], "GET /v2/ HTTP/1.1\r\nHost: mirror.example.com:28500\r\n"); status != 200 {
		t.Errorf("a name that is configured: %d", status)
	}
	if status, _ := knock(t, d.MetricsAddr(), "GET /metrics HTTP/1.1\r\nHost: node1:28504\r\n"); status != 200 {
		t.Errorf("a monitor's name for the node: %d", status)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestNoOrdersOverTCP asks for changes wherever there is a port.
func TestNoOrdersOverTCP(t *testing.T) {
	d, stop := start(t, testConfig(t))
	for _, addr := range []net.Addr{d.Addrs()[0], d.MetricsAddr(), d.HealthAddr()} {
		for _, path := range []string{daemon.RefreshPath, daemon.PrefetchPath} {
			for _, method := range []string{"POST", "GET", "PUT", "DELETE"} {
				status, body := knock(t, addr, fmt.Sprintf("%s %s?image=nginx HTTP/1.1\r\nHost: 127.0.0.1\r\n", method, path))
				if status != 404 && status != 405 {
					t.Errorf("%s %s at %s: %d %s", method, path, addr, status, body)
				}
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// crowd pipelines requests over many connections and reads none of the answers.
func crowd(t *testing.T, addr net.Addr, n int, request string) {
	t.Helper()
	for range n {
		conn, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.(*net.TCPConn).SetLinger(0); conn.Close() })
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		// Until the server takes no more, because it can send no more, or has closed it for another one.
		go func() {
			for many := strings.Repeat(request, 100); ; {
				if _, err := io.WriteString(conn, many); err != nil {
					return
				}
			}
		}()
	}
}

// TestCrowds has crowds at the metrics and at the mirror, which ask and never read: health is told at once, whatever
// happens to the rest, and the crowded servers answer others again within seconds, who come from the same address.
func TestCrowds(t *testing.T) {
	for _, n := range []int{64, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			layer := strings.Repeat("a layer ", 1<<17)
			upstream, _, _ := upstreamOf(t, layer)
			cfg := rulesOf(t, "registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\n")
			cfg.Mirror.MaxConnections, cfg.Shutdown.Timeout = 64, 100*time.Millisecond
			d, stop := start(t, cfg)
			crowd(t, d.MetricsAddr(), n, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
			blob := "/v2/org/app/blobs/" + digest.FromString(layer).String() + "?ns=registry.example.com"
			if status, body := knock(t, d.Addrs()[0], "GET "+blob+" HTTP/1.1\r\nHost: localhost\r\n"); status != 200 || body != layer {
				t.Fatalf("%d, %d bytes", status, len(body))
			}
			crowd(t, d.Addrs()[0], n, "GET "+blob+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			ask := func(url string) error {
				resp, err := client.Get(url)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
					return fmt.Errorf("%s, %w", resp.Status, err)
				}
				return nil
			}
			for range 20 {
				for _, path := range []string{"/healthz", "/readyz"} {
					if err := ask("http://" + d.HealthAddr().String() + path); err != nil {
						t.Errorf("%s: %v", path, err)
					}
				}
			}
			deadline := time.Now().Add(time.Minute)
			for _, url := range []string{"http://" + d.MetricsAddr().String() + "/metrics", "http://" + d.Addrs()[0].String() + blob} {
				for done := 0; done < 5; {
					if err := ask(url); err == nil {
						done++
					} else if time.Now().After(deadline) {
						t.Fatalf("%s: %v", url, err)
					}
				}
			}
			if err := stop(); err != nil && !strings.Contains(err.Error(), "deadline") {
				t.Error(err)
			}
		})
	}
}

// TestHealthOff has neither health nor metrics: the mirror answers all the same.
func TestHealthOff(t *testing.T) {
	cfg := testConfig(t)
	cfg.Health.Listen, cfg.Metrics.Listen = "", ""
	d, stop := start(t, cfg)
	if d.HealthAddr() != nil || d.MetricsAddr() != nil {
		t.Error("it listens")
	}
	if status, _ := knock(t, d.Addrs()[0], "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n"); status != 200 {
		t.Errorf("%d", status)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

package httpserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/pkg/httpserver"
)

func TestNames(t *testing.T) {
	names := &httpserver.Names{Field: "mirror.hosts", More: []string{"mirror.example.com", "10.9.9.9"}}
	for _, tt := range []struct {
		local, host string
		want        int
		header      []string
	}{
		{host: "127.0.0.1:28500"}, {host: "127.0.0.1"}, {host: "127.1.2.3:1"}, {host: "[::1]:28500"}, {host: "[::1]"}, {host: "::1"},
		{host: "localhost:28500"}, {host: "LocalHost"}, {host: "localhost."}, {host: "[::ffff:127.0.0.1]:1"},
		{host: "mirror.example.com"}, {host: "Mirror.Example.com:443"}, {host: "10.9.9.9:1"},
		{host: "", want: 421}, {host: "evil.example", want: 421}, {host: "evil.example:28500", want: 421},
		{host: "localhost.evil.example", want: 421}, {host: "127.0.0.1.evil.example", want: 421}, {host: "evil.example:127.0.0.1", want: 421},
		{host: "mirror.example.com.evil.example", want: 421}, {host: "127.1", want: 421}, {host: "0x7f000001", want: 421},
		{host: "0.0.0.0:28500", want: 421}, {host: "[::]:28500", want: 421}, {host: "localhost:x", want: 421}, {host: ":28500", want: 421},
		{host: "10.0.0.5:28500", want: 421},                                                             // No client comes so over loopback.
		{local: "10.0.0.5:28504", host: "10.0.0.5:28504"}, {local: "10.0.0.5:28504", host: "192.0.2.1"}, // As behind a translation of addresses.
		{local: "[2001:db8::5]:28504", host: "[2001:db8::5]:28504"}, {local: "10.0.0.5:28504", host: "0.0.0.0", want: 421},
		{local: "10.0.0.5:28504", host: "evil.example", want: 421}, {local: "10.0.0.5:28504", host: "", want: 421},
		{host: "127.0.0.1", header: []string{"Sec-Fetch-Site", "cross-site"}, want: 403},
		{host: "127.0.0.1", header: []string{"Sec-Fetch-Site", "same-site"}, want: 403},
		{host: "127.0.0.1", header: []string{"Sec-Fetch-Site", "same-origin"}}, {host: "127.0.0.1", header: []string{"Sec-Fetch-Site", "none"}},
		{host: "127.0.0.1", header: []string{"Origin", "https://evil.example"}, want: 403},
		{host: "127.0.0.1", header: []string{"Origin", "null"}, want: 403}, {host: "127.0.0.1", header: []string{"Origin", ""}, want: 403},
		{host: "127.0.0.1", header: []string{"Origin", "http://127.0.0.1:28500"}},
	} {
		local := tt.local
		if local == "" {
			local = "127.0.0.1:28500"
		}
		addr, err := net.ResolveTCPAddr("tcp", local)
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req = req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, net.Addr(addr)))
		req.Host = tt.host
		if len(tt.header) > 0 {
			req.Header.Set(tt.header[0], tt.header[1])
		}
		got := 0
		if r := names.Check(req); r != nil {
			got = r.Status
			if got == http.StatusMisdirectedRequest && !strings.Contains(r.Reason, "mirror.hosts") {
				t.Errorf("%q: the reason does not say what to configure: %s", tt.host, r.Reason)
			}
		}
		if got != tt.want {
			t.Errorf("%q at %s, %v: %d, want %d", tt.host, local, tt.header, got, tt.want)
		}
	}
}

// TestHostsOnTheWire sends what the standard client never would.
func TestHostsOnTheWire(t *testing.T) {
	names := &httpserver.Names{Field: "x"}
	server := httptest.NewServer(names.Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })))
	defer server.Close()
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n":                           200,
		"GET / HTTP/1.1\r\nHost: evil.example\r\n":                        421,
		"GET / HTTP/1.1\r\n":                                              400,
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n":     400,
		"GET / HTTP/1.0\r\n":                                              421,
		"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n":                           200,
		"GET / HTTP/1.1\r\nHost:\r\n":                                     421,
		"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n":        421, // The target counts (RFC 9112, section 3.2.2).
		"GET http://127.0.0.1/ HTTP/1.1\r\nHost: evil.example\r\n":        200, // No browser sends it to a server that is no proxy.
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: evil\r\n": 200,
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "%sConnection: close\r\n\r\n", request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		if resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", request, resp.StatusCode, want)
		}
		resp.Body.Close()
		conn.Close()
	}
}

package httpserver_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/httpserver"
)

// Requests that come at once wait for longer and longer, so that those who send them cost little; requests that come
// one after the other never wait.
func TestPipelining(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct {
		name  string
		send  []string // One write after the other, each when all before are answered.
		least time.Duration
		most  time.Duration
	}{
		{"one after the other", []string{request, request, request, request, request, request}, 0, 0},
		{"two at once", []string{request + request}, 10 * time.Millisecond, 10 * time.Millisecond},
		{"two at once, and no more", []string{request + request, request, request}, 10 * time.Millisecond, 10 * time.Millisecond},
		{"sixteen at once", []string{strings.Repeat(request, 16)}, 13110 * time.Millisecond, 13110 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			piped(t, func(cfg *httpserver.Config) { cfg.Handler = large(1) }, func(c net.Conn) {
				in := bufio.NewReader(c)
				start := time.Now()
				for _, text := range tt.send {
					sent := make(chan error, 1)
					go func() {
						_, err := io.WriteString(c, text)
						sent <- err
					}()
					for range strings.Count(text, "GET") {
						resp, err := http.ReadResponse(in, nil)
						if err != nil {
							t.Fatal(err)
						}
						if _, err := io.Copy(io.Discard, resp.Body); err != nil {
							t.Fatal(err)
						}
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(start); took < tt.least || took > tt.most {
					t.Errorf("it took %v, want %v to %v", took, tt.least, tt.most)
				}
			})
		})
	}
}

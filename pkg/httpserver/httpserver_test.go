package httpserver_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/httpserver"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func serve(drain time.Duration, handler http.Handler) *httpserver.Server {
	return httpserver.New(httpserver.Config{
		Handler: handler, MaxConnections: 8, HeaderTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute,
		MaxHeaderBytes: 1 << 10, Drain: drain,
	})
}

// TestEnd ends a server while a request is under way: with time to finish, and without.
func TestEnd(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	for _, drain := range []time.Duration{time.Minute, time.Millisecond} {
		started, release, ended := make(chan struct{}), make(chan struct{}), false
		server := serve(drain, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(started)
			select {
			case <-release:
				_, _ = io.WriteString(w, "whole")
			case <-r.Context().Done():
			}
			ended = true
		}))
		l := listen(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- server.Run(ctx, l, listen(t)) }()
		body := make(chan string, 1)
		go func() {
			resp, err := http.Get("http://" + l.Addr().String())
			if err != nil {
				body <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			body <- string(b)
		}()
		<-started
		cancel()
		if drain == time.Minute {
			close(release)
		}
		if err := <-done; err != nil {
			t.Errorf("drain %v: %v", drain, err)
		}
		if !ended {
			t.Errorf("drain %v: Run returned before the handler", drain)
		}
		if got := <-body; (got == "whole") != (drain == time.Minute) {
			t.Errorf("drain %v: client got %q", drain, got)
		}
	}
}

func TestListenerFails(t *testing.T) {
	bad := listen(t)
	bad.Close()
	err := serve(time.Minute, http.NotFoundHandler()).Run(t.Context(), listen(t), bad)
	if err == nil || !strings.Contains(err.Error(), bad.Addr().String()) {
		t.Errorf("%v", err)
	}
}

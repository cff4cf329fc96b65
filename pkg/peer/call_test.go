package peer_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// TestCallsWaitForNoSlot has all upload slots taken and a tight cap: what members agree on is said all the same.
func TestCallsWaitForNoSlot(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 1<<10)
	started, release := make(chan struct{}), make(chan struct{})
	addr := serve(t, peer.ServerConfig{
		Credentials: creds, Slots: 1, Queue: 1, BytesPerSecond: 1,
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(started)
			<-release
		}),
		Handle: map[string]http.Handler{"POST /kioo/v1/echo": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusMisdirectedRequest)
			_, _ = io.Copy(w, r.Body)
		})},
	})
	c := client(t, creds)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1); err == nil {
			s.Close()
		}
	}()
	<-started
	for path, want := range map[string]int{"/kioo/v1/echo": http.StatusMisdirectedRequest, "/kioo/v1/other": http.StatusNotFound} {
		resp, err := c.Call(t.Context(), http.MethodPost, []string{addr}, path, body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || want != http.StatusNotFound && !bytes.Equal(got, body) {
			t.Errorf("%s: %d, %d bytes, %v", path, resp.StatusCode, len(got), err)
		}
	}
	close(release)
	<-done
	if _, err := c.Call(t.Context(), http.MethodPost, []string{"127.0.0.1:1"}, "/kioo/v1/echo", nil); !errors.Is(err, peer.ErrDead) {
		t.Errorf("nobody is there: %v", err)
	}
}

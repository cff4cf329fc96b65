package peer_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// TestSessionsResume connects to two members in turns: the second handshake with each is a short one.
func TestSessionsResume(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := []byte("blob")
	resumed := make(chan bool, 1)
	watch := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resumed <- r.TLS.DidResume
		holder(body)(w, r)
	})
	members := []string{
		serve(t, peer.ServerConfig{Handler: watch, Credentials: creds}),
		serve(t, peer.ServerConfig{Handler: watch, Credentials: creds}),
	}
	c := client(t, creds)
	for _, want := range []bool{false, true} {
		for _, addr := range members {
			s, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, s); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if got := <-resumed; got != want {
				t.Errorf("%s: resumed: %v instead of %v", addr, got, want)
			}
		}
		c.Close() // Of connections that are idle, so that the next ones are new.
	}
}

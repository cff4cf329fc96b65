package peer_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// TestSlots fills the server's slots and its queue: what does not fit is told so, soon.
func TestSlots(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 1<<20)
	started, release := make(chan struct{}, 10), make(chan struct{})
	addr := serve(t, peer.ServerConfig{Credentials: creds, Slots: 2, Queue: 1, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-release
		holder(body)(w, r)
	})})
	c := peer.NewClient(peer.ClientConfig{Credentials: creds, FirstByte: time.Minute}) // However long those in a slot wait.
	t.Cleanup(c.Close)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			s, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
			if err != nil {
				t.Errorf("in a slot: %v", err)
				return
			}
			s.Close()
		})
		<-started
	}
	for range 3 { // One after the other: each waits in the queue for its tenth of a second.
		if _, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1); !errors.Is(err, peer.ErrBusy) {
			t.Errorf("without a slot: %v", err)
		}
	}
	close(release)
	running.Wait()
	s, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
	if err != nil {
		t.Fatalf("with slots free again: %v", err)
	}
	s.Close()
}

// TestBandwidth has either side of a transfer keep to a cap.
func TestBandwidth(t *testing.T) {
	const limit = 1_000_000
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 400_000)
	for side, test := range map[string]struct{ up, down int64 }{"server": {up: limit}, "client": {down: limit}} {
		t.Run(side, func(t *testing.T) {
			addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds, BytesPerSecond: test.up})
			c := peer.NewClient(peer.ClientConfig{Credentials: creds, BytesPerSecond: test.down})
			t.Cleanup(c.Close)
			began := time.Now()
			for range 2 {
				fetch(t, c, addr, body)
			}
			// 800 kB at 1 MB/s, of which the first tenth may go at once.
			if took := time.Since(began); took < 600*time.Millisecond {
				t.Errorf("800 kB under a cap of 1 MB/s took %v", took)
			}
		})
	}
}

// fetch gets a blob as a whole.
func fetch(t *testing.T, c *peer.Client, addr string, body []byte) {
	t.Helper()
	s, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	if n, err := io.Copy(io.Discard, s); err != nil || n != int64(len(body)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestCapAndManyClients has as many uploads as there are slots under a tight cap: all move, and so none looks dead.
func TestCapAndManyClients(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 48<<10)
	addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds, BytesPerSecond: 1 << 20})
	// So many handshakes at once take a busy machine longer than a member may take; they are not what this is about.
	c := peer.NewClient(peer.ClientConfig{Credentials: creds, Connect: 10 * time.Second, Progress: 5 * time.Second})
	t.Cleanup(c.Close)
	var clients sync.WaitGroup
	for range 32 {
		clients.Go(func() { fetch(t, c, addr, body) })
	}
	clients.Wait()
}

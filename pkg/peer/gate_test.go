package peer_test

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// TestOneMemberTakesNotAll has a member ask for more than its share: it is refused with a hint, and another is served.
func TestOneMemberTakesNotAll(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 1<<20)
	started, release := make(chan string, 16), make(chan struct{})
	defer close(release)
	addr := serve(t, peer.ServerConfig{Credentials: creds, Slots: 8, Queue: 8, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- r.Header.Get(peer.MemberHeader) + r.Header.Get(peer.ZoneHeader)
		<-release
		holder(body)(w, r)
	})}) // A member's share is half of the slots.
	clients := map[string]*peer.Client{}
	for _, name := range []string{"a", "b"} {
		c := peer.NewClient(peer.ClientConfig{Credentials: creds, Member: name, Zone: "z", FirstByte: time.Minute})
		t.Cleanup(c.Close)
		clients[name] = c
	}
	ask := func(name string) {
		if s, err := clients[name].Blob(t.Context(), []string{addr}, blobRef(body), 0, -1); err == nil {
			s.Close()
		}
	}
	for range 4 {
		go ask("a")
		if who := <-started; who != "az" {
			t.Errorf("served %q", who)
		}
	}
	_, err := clients["a"].Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
	var busy *peer.Busy
	if !errors.As(err, &busy) || !errors.Is(err, peer.ErrBusy) || busy.Retry <= 0 || busy.Retry > time.Second {
		t.Errorf("beyond its share: %v", err)
	}
	go ask("b")
	if who := <-started; who != "bz" {
		t.Errorf("served %q", who)
	}
}

// TestPiecesHaveTheirOwnSlots has long reads take all slots there are: pieces are sent all the same, up to a member's
// share, and beside it where nobody else can send them.
func TestPiecesHaveTheirOwnSlots(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 1<<20)
	started, release := make(chan struct{}, 16), make(chan struct{})
	defer close(release)
	addr := serve(t, peer.ServerConfig{Credentials: creds, Slots: 1, Queue: 1,
		First: func(r *http.Request) bool { return r.Header.Get("Range") == "bytes=7-7" },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			started <- struct{}{}
			<-release
			holder(body)(w, r)
		})})
	c := peer.NewClient(peer.ClientConfig{Credentials: creds, Member: "a", FirstByte: time.Minute})
	t.Cleanup(c.Close)
	get := func(s *peer.Stream, err error) {
		if err == nil {
			s.Close()
		}
	}
	go func() { get(c.Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)) }()
	<-started
	for i := range int64(4) {
		go func() { get(c.Piece(t.Context(), []string{addr}, blobRef(body), i, i+1)) }()
		<-started
	}
	if _, err := c.Piece(t.Context(), []string{addr}, blobRef(body), 4, 5); !errors.Is(err, peer.ErrBusy) {
		t.Errorf("beyond its share: %v", err)
	}
	go func() { get(c.Piece(t.Context(), []string{addr}, blobRef(body), 7, 8)) }()
	<-started
	if _, err := c.Blob(t.Context(), []string{addr}, blobRef(body), 7, 8); !errors.Is(err, peer.ErrBusy) {
		t.Errorf("a read that is no piece, without a slot: %v", err)
	}
}

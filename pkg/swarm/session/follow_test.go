package session

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
)

// TestFollowedByStranger has a member follow before the tracker says how it is reached: it is listened to as soon
// as that is known, not when a member that can't be reached would be tried again.
func TestFollowedByStranger(t *testing.T) {
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	friend, err := net.Listen("tcp", "127.0.0.1:0") // Somebody to exchange pieces with, who has nothing to say.
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	var followed atomic.Bool
	begun, heard := make(chan struct{}), make(chan struct{})
	b := &office{}
	b.answer = func(a swarm.Announce) (tracker.Answer, error) {
		if b.asked.Load() == 2 { // By then it has heard of the friend.
			close(begun)
		}
		answer := tracker.Answer{Assignment: swarm.Assignment{
			Size: a.Size, Leases: []swarm.Lease{{End: 1 << 20}}, Again: 20 * time.Millisecond,
			Neighbours: []swarm.Neighbour{{Member: "friend"}},
		}, Members: map[swarm.ID]discovery.Member{"friend": {PeerAPI: []string{friend.Addr().String()}}}}
		select {
		case <-heard:
			answer.Leases[0].End = -1
		default:
		}
		if followed.Load() {
			answer.Neighbours = append(answer.Neighbours, swarm.Neighbour{Member: "stranger"})
			answer.Members["stranger"] = discovery.Member{PeerAPI: []string{stranger.Addr().String()}}
		}
		return answer, nil
	}
	x := newSessions(t, func(c *Config) { c.Announcer, c.Peers = b, newPeers(t) })
	g := group(t, x)
	body := make([]byte, 9<<20)
	dgst := digest.FromBytes(body)
	pulled := make(chan error, 1)
	go func() { pulled <- pull(t, g, dgst, &source{body: body}) }()

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan struct{})
	go func() {
		defer close(left)
		select {
		case <-begun:
		case <-ctx.Done():
			return
		}
		req := httptest.NewRequestWithContext(ctx, http.MethodGet, Path+dgst.String()+"/quay.io/org/app", nil)
		req.Header.Set(peer.MemberHeader, "stranger")
		x.ServeHTTP(&follow{ResponseRecorder: httptest.NewRecorder(), followed: &followed}, req)
	}()
	_ = stranger.(*net.TCPListener).SetDeadline(time.Now().Add(3 * time.Second))
	conn, err := stranger.Accept()
	if err != nil {
		t.Errorf("nobody listens to the member that follows: %v", err)
	} else {
		conn.Close()
	}
	close(heard)
	leave()
	<-left
	if err := <-pulled; err != nil {
		t.Error(err)
	}
}

// follow takes note of when its request is answered by a stream.
type follow struct {
	*httptest.ResponseRecorder
	followed *atomic.Bool
}

func (f *follow) Write(b []byte) (int, error) {
	f.followed.Store(f.Code == http.StatusOK)
	return f.ResponseRecorder.Write(b)
}

package daemon_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/peer"
	"golang.org/x/time/rate"
)

// wire forwards the connections of other members to a member's peer API, until it fails as it is told.
type wire struct {
	net.Listener
	to    string
	limit *rate.Limiter // Of what the member sends; nil for none.
	hole  *atomic.Int64 // How many bytes the member may still send before all goes nowhere; nil for ever.
	done  chan struct{}
	conns sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &wire{Listener: l, to: to, done: make(chan struct{})}
}

func (w *wire) run(t *testing.T) {
	w.conns.Go(func() {
		for {
			conn, err := w.Accept()
			if err != nil {
				return
			}
			w.conns.Go(func() { w.forward(conn) })
		}
	})
	t.Cleanup(func() {
		close(w.done)
		w.Close()
		w.conns.Wait()
	})
}

func (w *wire) forward(conn net.Conn) {
	defer conn.Close()
	member, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer member.Close()
	ended := make(chan struct{})
	w.conns.Go(func() {
		select {
		case <-w.done:
		case <-ended:
		}
		conn.Close()
		member.Close()
	})
	defer close(ended)
	w.conns.Go(func() {
		_, _ = io.Copy(member, conn)
		member.Close()
	})
	buf := make([]byte, 16<<10)
	for {
		n, err := member.Read(buf)
		if w.hole != nil && w.hole.Add(-int64(n)) < 0 {
			<-w.done
			return
		}
		if w.limit != nil && n > 0 {
			_ = w.limit.WaitN(context.Background(), n)
		}
		if _, werr := conn.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

// behind has a member tell others the address of a wire, or whatever else it is.
func behind(cfg *config.Config, peerAPI, front string) {
	cfg.Peers.Listen, cfg.Peers.Advertise = []string{peerAPI}, []string{front}
}

// forger answers for a member with what it says, but for the bytes of blobs.
func forger(t *testing.T, keyFile, to string) (front string, forged *atomic.Int64) {
	t.Helper()
	keys, err := peer.LoadKeys([]string{keyFile})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := peer.NewCredentials(keys, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	forged = new(atomic.Int64)
	transport := &http.Transport{TLSClientConfig: creds.Client(), DisableCompression: true}
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: to}) },
		ModifyResponse: func(resp *http.Response) error {
			if strings.Contains(resp.Request.URL.Path, "/blobs/") && resp.StatusCode < 300 {
				forged.Add(1)
				resp.Body = &forgery{ReadCloser: resp.Body}
			}
			return nil
		},
		FlushInterval: -1,
		Transport:     transport,
	})
	server.TLS = creds.Server()
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	return server.Listener.Addr().String(), forged
}

type forgery struct{ io.ReadCloser }

func (f *forgery) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 {
		p[n/2] ^= 1
	}
	return n, err
}

// survived says how it went. How long it takes is for the benchmark to judge, on a machine of its own; here it is only
// not to be as long, or as dear, as without each other.
func survived(t *testing.T, upstream *slowUpstream, took time.Duration) {
	t.Helper()
	t.Logf("%.2f copies from upstream in %v", upstream.copies(), took)
	if took > time.Minute {
		t.Errorf("took %v", took)
	}
	if upstream.copies() > 5 { // As many as there are members.
		t.Errorf("upstream sent %.2f copies", upstream.copies())
	}
}

// TestSwarmSurvives has members get a blob at once while one of them is trouble: the others' pulls succeed.
func TestSwarmSurvives(t *testing.T) {
	for _, test := range []struct {
		name  string
		front func(t *testing.T, keyFile, peerAPI string) string
	}{
		{"one that sends wrong bytes", func(t *testing.T, keyFile, peerAPI string) string {
			front, forged := forger(t, keyFile, peerAPI)
			t.Cleanup(func() {
				if forged.Load() == 0 {
					t.Log("nobody asked the forger for anything: on a busy machine others may be done before")
				}
			})
			return front
		}},
		{"one that is swallowed after some time", func(t *testing.T, _, peerAPI string) string {
			w := newWire(t, peerAPI)
			w.hole = new(atomic.Int64)
			w.hole.Store(3 << 20)
			w.run(t)
			return w.Addr().String()
		}},
		{"one at a hundredth of the speed", func(t *testing.T, _, peerAPI string) string {
			w := newWire(t, peerAPI)
			w.limit = rate.NewLimiter(swarmRate/100, 64<<10)
			w.run(t)
			return w.Addr().String()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Two seconds' worth, on a busy machine too less than the five for which bytes wait for the verdict.
			upstream := newSlowUpstream(t, swarmBlob/2, swarmRate)
			members := fleetOf(t, 5, upstream.URL, func(i int, cfg *config.Config) {
				if i == 1 {
					peerAPI := freeAddress(t)
					behind(cfg, peerAPI, test.front(t, cfg.Peers.KeyFiles[0], peerAPI))
				}
			})
			took := pullAll(t, members, upstream.digest)
			survived(t, upstream, took)
		})
	}
}

// TestSwarmSurvivesDeaths has a member die half-way: one that only takes part, and the tracker.
func TestSwarmSurvivesDeaths(t *testing.T) {
	for _, tracker := range []bool{false, true} {
		name := map[bool]string{false: "a member", true: "the tracker"}[tracker]
		t.Run(name, func(t *testing.T) {
			upstream := newSlowUpstream(t, swarmBlob, swarmRate)
			members := fleetOf(t, 6, upstream.URL, func(_ int, cfg *config.Config) {
				cfg.Shutdown.Timeout = 200 * time.Millisecond // Who is stopped is to look like one that died.
			})
			victim := -1
			for i, m := range members {
				if m.Tracks(upstream.digest) == tracker {
					victim = i
				}
			}
			dying := members[victim]
			others := append(append([]member(nil), members[:victim]...), members[victim+1:]...)
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				pulled := make(chan struct{})
				go func() {
					defer close(pulled)
					_ = dying.pull(t.Context(), upstream.digest) // Its own pull breaks, as its client would see.
				}()
				for upstream.copies() < 0.5 && t.Context().Err() == nil {
					time.Sleep(5 * time.Millisecond)
				}
				_ = dying.stop()
				<-pulled
			}()
			took := pullAll(t, others, upstream.digest)
			<-killed
			survived(t, upstream, took)
		})
	}
}

// TestSwarmWithoutSource has upstream refuse: every member hears so at once.
func TestSwarmWithoutSource(t *testing.T) {
	upstream := newSlowUpstream(t, swarmBlob, swarmRate)
	upstream.denied.Store(true)
	members := fleetOf(t, 4, upstream.URL, nil)
	began := time.Now()
	var group sync.WaitGroup
	for i, m := range members {
		group.Go(func() {
			if err := m.pull(t.Context(), upstream.digest); err == nil || !strings.Contains(err.Error(), "404") {
				t.Errorf("member %d: %v", i, err)
			}
		})
	}
	group.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to be told no", took)
	}
}

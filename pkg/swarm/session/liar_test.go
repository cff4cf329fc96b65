package session

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// TestNeighboursThatLie has the only neighbour tell what it can't mean, or send what it did not tell: it is left and
// blamed, and the blob comes from elsewhere, right.
func TestNeighboursThatLie(t *testing.T) {
	body := bytes.Repeat([]byte("right"), 9<<20/5)
	size := int64(len(body))
	junk := make([]byte, size)
	all := func(hash swarm.Hash) (haves []swarm.Have) {
		for i := range swarm.NewLayout(size).Pieces() {
			haves = append(haves, swarm.Have{Piece: i, Hash: hash})
		}
		return haves
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(junk))
	}
	for name, test := range map[string]struct {
		frames []byte
		blobs  http.HandlerFunc
		kind   peer.Kind
		spared bool // It is left, but may give the blob in another way.
	}{
		"hashes of all zeros":   {appendHaves(nil, all(swarm.Hash{})), serve, peer.BadBytes, false},
		"a piece beyond":        {appendHaves(nil, []swarm.Have{{Piece: 1 << 10}}), serve, peer.BadPiece, false},
		"two hashes of a piece": {append(appendHaves(nil, all(swarm.Hash{})[:1]), appendHaves(nil, all(swarm.Hash{1})[:1])...), serve, peer.BadPiece, false},
		"another range": {appendHaves(nil, all(swarm.Hash{})), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 1-2/%d", size))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(junk[:2])
		}, peer.BadRange, false},
		"another size": {appendHaves(nil, all(swarm.Hash{})), func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(junk[:size-1]))
		}, peer.BadSize, true},
	} {
		t.Run(name, func(t *testing.T) {
			liar, client, counted := liar(t, test.frames, test.blobs)
			blamed := make(chan struct{})
			var once sync.Once
			o := &office{}
			o.answer = func(a swarm.Announce) (tracker.Answer, error) {
				answer := tracker.Answer{
					Assignment: swarm.Assignment{Size: a.Size, Again: 20 * time.Millisecond, Neighbours: []swarm.Neighbour{{Member: "liar"}}},
					Members:    map[swarm.ID]discovery.Member{"liar": liar},
				}
				over := test.spared && counted(test.kind) > 0
				select {
				case <-blamed:
					over = true
				default:
				}
				if over {
					answer.Leases = []swarm.Lease{{End: a.Size}}
				}
				return answer, nil
			}
			x := newSessions(t, func(c *Config) {
				c.Announcer, c.Peers, c.MaxFollowers = o, client, 1
				c.Blame = func(m discovery.Member, _ reference.Reference, _ error) {
					if m.PeerAPI[0] == liar.PeerAPI[0] {
						once.Do(func() { close(blamed) })
					}
				}
			})
			g := group(t, x)
			r, err := g.Join(t.Context(), "", "", digest.FromBytes(body), flight.Hint(size), &app{source{body: body}})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var got bytes.Buffer
			if _, err := r.CopyRange(t.Context(), &got, 0, r.Size()); err != nil || !bytes.Equal(got.Bytes(), body) {
				t.Errorf("%d bytes, %v", got.Len(), err)
			}
			select {
			case <-blamed:
				if test.spared {
					t.Error("it was blamed")
				}
			default:
				if !test.spared {
					t.Error("it was not blamed")
				}
			}
		})
	}
}

// app is a source that says what it is asked for.
type app struct{ source }

func (a *app) Reference() (reference.Reference, bool) {
	repo := reference.Repository{Registry: "quay.io", Path: "org/app"}
	return reference.Reference{Repository: repo, Digest: digest.FromBytes(a.body)}, true
}

// liar starts a member that tells these frames of everything and serves blobs in its own way. counted says how many
// violations of a kind were noted.
func liar(t *testing.T, frames []byte, blobs http.HandlerFunc) (discovery.Member, *peer.Client, func(peer.Kind) int) {
	t.Helper()
	creds, err := peer.NewCredentials([]peer.Key{peer.NewKey()}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	server := peer.NewServer(peer.ServerConfig{
		Handler: blobs, Credentials: creds, Drain: time.Millisecond, Log: logr.Discard(),
		Handle: map[string]http.Handler{Path: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(frames)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, l) }()
	reg := prometheus.NewRegistry()
	client := peer.NewClient(peer.ClientConfig{Credentials: creds, Violations: peer.NewViolations(logr.Discard(), reg)})
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return discovery.Member{PeerAPI: []string{l.Addr().String()}}, client, func(kind peer.Kind) (n int) {
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		for _, m := range families[0].GetMetric() {
			if m.GetLabel()[0].GetValue() == string(kind) {
				n += int(m.GetCounter().GetValue())
			}
		}
		return n
	}
}

// TestMoves has a manifest say a wrong size of a blob: by the first word of upstream the flight goes to the swarm of
// the right one, and is not without a swarm.
func TestMoves(t *testing.T) {
	for _, start := range []int64{0, 5 << 20, 12 << 20} { // Of what it is first given to read.
		moves(t, start)
	}
}

func moves(t *testing.T, start int64) {
	t.Helper()
	body := make([]byte, 9<<20)
	var mu sync.Mutex
	var sizes []int64
	o := &office{answer: func(a swarm.Announce) (tracker.Answer, error) {
		mu.Lock()
		defer mu.Unlock()
		start := start
		if a.Size == int64(len(body)) {
			start = 0
		}
		if len(sizes) == 0 || sizes[len(sizes)-1] != a.Size {
			sizes = append(sizes, a.Size)
		}
		return tracker.Answer{Assignment: swarm.Assignment{Size: a.Size, Leases: []swarm.Lease{{Start: start, End: a.Size}}, Again: 20 * time.Millisecond}}, nil
	}}
	x := newSessions(t, func(c *Config) { c.Announcer = o })
	src := &source{body: body}
	r, err := group(t, x).Join(t.Context(), "", "", digest.FromBytes(body), flight.Hint(20<<20), src)
	if err != nil || r.Size() != int64(len(body)) {
		t.Fatalf("%v, %v", r, err)
	}
	defer r.Close()
	var got bytes.Buffer
	if _, err := r.CopyRange(t.Context(), &got, 0, r.Size()); err != nil || !bytes.Equal(got.Bytes(), body) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(sizes) != 2 || sizes[0] != 20<<20 || sizes[1] != int64(len(body)) {
		t.Errorf("it announced itself with %d bytes", sizes)
	}
}

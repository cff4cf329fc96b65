package session

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
)

const (
	// batchFor is how long news wait for more before they are sent.
	batchFor = 5 * time.Millisecond
	// tellWithin is how long a follower may take to accept them.
	tellWithin = 5 * time.Second
)

// follower is a member that listens to us. It is safe for concurrent use.
type follower struct {
	id   swarm.ID
	zone string
	size int64 // That it believes the blob to have; negative if it does not say.
	kick chan struct{}

	mu    sync.Mutex
	haves []swarm.Have // Not sent yet. No more than there are pieces, for each is told once.
	told  swarm.Pieces
	ended bool
	all   bool
}

func (f *follower) push(haves []swarm.Have) {
	f.mu.Lock()
	for _, h := range haves {
		if f.told.Add(h.Piece) {
			f.haves = append(f.haves, h)
		}
	}
	f.mu.Unlock()
	f.wake()
}

// rest tells of all pieces that it was not told of.
func (f *follower) rest(hashes map[int]swarm.Hash) {
	haves := make([]swarm.Have, 0, len(hashes))
	for piece, hash := range hashes {
		haves = append(haves, swarm.Have{Piece: piece, Hash: hash})
	}
	f.push(haves)
}

// end ends the stream after what is still to be sent; all says that the blob is here as a whole.
func (f *follower) end(all bool) {
	f.mu.Lock()
	f.ended, f.all = true, all
	f.mu.Unlock()
	f.wake()
}

func (f *follower) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *follower) take() (haves []swarm.Have, ended, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	haves, f.haves = f.haves, nil
	return haves, f.ended, f.all
}

// ServeHTTP implements http.Handler, below Path: it tells a member what this one has of a blob, until it has all.
func (x *Sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ref, err := wanted(r.URL.Path)
	id, zone, lie := peer.From(r)
	size, wrong := peer.Believed(r)
	x.cfg.Peers.Violations().Note(string(id), r.RemoteAddr, key, errors.Join(lie, wrong))
	if errors.Join(err, lie, wrong) != nil || r.Method != http.MethodGet || id == "" {
		http.Error(w, "expected GET "+Path+"<digest>/<repository> of a member that says who it is", http.StatusBadRequest)
		return
	}
	f := &follower{id: id, zone: zone, size: size, kick: make(chan struct{}, 1)}
	p := x.session(key)
	room := make(chan bool, 1)
	switch {
	case p != nil && p.post(func(now time.Time) { room <- p.followed(now, f) }):
		if !<-room {
			http.Error(w, "too many listen already, or what is here has another size", http.StatusServiceUnavailable)
			return
		}
		defer p.post(func(now time.Time) { p.unfollowed(now, f) })
	case x.cfg.Held(r.Context(), ref, access.Claim(r.Header.Get(peer.ClaimHeader))):
		f.end(true)
	default:
		http.Error(w, "nothing of it is here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	x.stream(w, r, f)
}

// wanted reads what a request's path asks for.
func wanted(path string) (key string, ref reference.Reference, err error) {
	key, name, _ := strings.Cut(strings.TrimPrefix(path, Path), "/")
	if ref.Digest, err = tracker.DigestOf(key); err != nil {
		return "", ref, err
	}
	registry, name, _ := strings.Cut(name, "/")
	ref.Repository, err = reference.NewRepository(registry, name)
	return key, ref, err
}

// stream sends what there is to tell until it ends, or nobody listens any more.
func (x *Sessions) stream(w http.ResponseWriter, r *http.Request, f *follower) {
	var (
		out   = http.NewResponseController(w)
		alive = time.NewTicker(aliveEvery)
		frame = []byte{frameAlive} // The first says that there is a stream.
	)
	defer alive.Stop()
	for {
		_ = out.SetWriteDeadline(time.Now().Add(tellWithin)) // Recorders have none.
		if _, err := w.Write(frame); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-f.kick:
			haves, ended, all := x.batch(r, f)
			frame = appendHaves(frame[:0], haves)
			if all {
				frame = append(frame, frameAll)
			}
			if ended {
				_, _ = w.Write(frame) // The last word; who does not hear it finds the stream ended.
				return
			}
		case <-alive.C:
			frame = append(frame[:0], frameAlive)
		case <-r.Context().Done():
			return
		case <-x.ctx.Done():
			return
		}
	}
}

// batch waits a moment for more, and takes it.
func (x *Sessions) batch(r *http.Request, f *follower) (haves []swarm.Have, ended, all bool) {
	wait := time.NewTimer(batchFor)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-r.Context().Done():
	case <-x.ctx.Done():
	}
	return f.take()
}

// First tells whether a request of another member is for a piece that this one was the first to have, and that has not
// got around yet: the whole swarm waits for its upload.
func (x *Sessions) First(r *http.Request) bool {
	var start, last int64
	if n, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &start, &last); n != 2 || err != nil {
		return false
	}
	i := strings.LastIndex(r.URL.Path, "/")
	return slices.ContainsFunc(x.sessionsOf(r.URL.Path[i+1:]), func(p *session) bool { return p.first(start, last+1) })
}

// first tells whether a range is such a piece.
func (p *session) first(start, end int64) bool {
	first := make(chan bool, 1)
	asked := p.post(func(time.Time) {
		if p.download == nil {
			first <- false
			return
		}
		piece := p.layout.At(start)
		from, to := p.layout.Span(piece)
		first <- from == start && to == end && p.download.First(piece)
	})
	return asked && <-first
}

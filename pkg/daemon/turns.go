package daemon

import (
	"net/http"
	"net/netip"
	"sync"

	"github.com/kioo-dev/kioo/pkg/bound"
	"github.com/kioo-dev/kioo/pkg/httpserver"
)

// maxTurns is how many answers are made at once, and of these one for each source. To gather metrics costs
// milliseconds of a processor, which strangers may ask for as often as they like.
const maxTurns = 2

// turns has requests wait for each other, so that whoever asks a lot waits for himself. How many wait is bounded by the
// server's connections, and how long by the request's context. It is safe for concurrent use.
type turns struct {
	all chan struct{}

	mu      sync.Mutex
	sources map[bound.Source]*turn
}

type turn struct {
	slot chan struct{}
	want int // Requests that have it or wait for it.
}

func newTurns() *turns {
	return &turns{all: make(chan struct{}, maxTurns), sources: map[bound.Source]*turn{}}
}

// take gives a handler that is entered in turn.
func (t *turns) take(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		source := bound.Source{}
		if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			source = bound.SourceOf(at.Addr())
		}
		own := t.join(source)
		defer t.leave(source, own)
		waited := httpserver.Waits(r)
		for _, slot := range []chan struct{}{own.slot, t.all} { // In this order: who waits for himself takes no place of others.
			select {
			case slot <- struct{}{}:
				defer func() { <-slot }()
			case <-r.Context().Done():
				http.Error(w, "too many ask", http.StatusServiceUnavailable)
				return
			}
		}
		waited()
		next.ServeHTTP(w, r)
	})
}

func (t *turns) join(source bound.Source) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.sources[source]
	if own == nil {
		own = &turn{slot: make(chan struct{}, 1)}
		t.sources[source] = own
	}
	own.want++
	return own
}

func (t *turns) leave(source bound.Source, own *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own.want--; own.want == 0 {
		delete(t.sources, source)
	}
}

package registry

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/httpserver"
)

const (
	// headerTimeout is how long a client may take to send a request's headers.
	headerTimeout = 10 * time.Second
	// bodyTimeout is how long a client may take to send a body, which nobody wants: what is pulled needs none.
	bodyTimeout = 10 * time.Second
	// idleTimeout is how long a connection may wait for its next request.
	idleTimeout = 2 * time.Minute
	// maxHeaderBytes bounds a request's headers. Bearer tokens of registries are a few KiB.
	maxHeaderBytes = 32 << 10
)

// Server serves a handler over HTTP and bounds what its clients can cost: connections, header sizes and times.
type Server struct {
	http  *http.Server
	drain time.Duration
}

// NewServer makes a server of at most maxConnections connections. A new one beyond closes the one that has been idle
// for longest, so that idle clients lock nobody out; if none is idle, the new one is closed. Clients that owe a body
// count as idle, and have their connections closed once they are answered. drain is how long answers
// on their way may take once the server is told to stop.
func NewServer(handler http.Handler, maxConnections int, drain time.Duration, log logr.Logger) *Server {
	bound := &bound{max: maxConnections, quiet: list.New(), conns: map[net.Conn]*list.Element{}}
	return &Server{
		drain: drain,
		http: &http.Server{
			Handler:                      bound.wary(handler),
			ReadHeaderTimeout:            headerTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               maxHeaderBytes,
			DisableGeneralOptionsHandler: true,
			ConnState:                    bound.changed,
			ConnContext:                  withConn,
			ErrorLog:                     slog.NewLogLogger(logr.ToSlogHandler(log), slog.LevelDebug),
		},
	}
}

// Run serves the listeners, which it closes, until ctx ends and the answers on their way have left.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	return httpserver.Run(ctx, s.http, s.drain, listeners...)
}

// bound keeps the number of connections in bounds.
type bound struct {
	max int

	mu    sync.Mutex
	quiet *list.List // Of net.Conn: those that serve nobody, the longest quiet first.
	// conns holds every open connection with its place among the quiet, nil while it is not one of them. What trim has
	// closed is in it no more.
	conns map[net.Conn]*list.Element
}

type connKey struct{}

// withConn is http.Server's ConnContext hook.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// wary has clients that announce a body hold up nobody: net/http waits for bodies without a deadline, and calls the
// connection active while it does.
func (b *bound) wary(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ContentLength != 0 { // Also where the length is not known yet.
			if c, ok := req.Context().Value(connKey{}).(net.Conn); ok {
				b.doubt(c)
			}
			// The deadline outlasts the body, and what net/http reads after a body's end in order to see the client leave
			// would run into it in the middle of a long answer. It does not read so where it will close the connection.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, req)
	})
}

// doubt counts an active connection as quiet, so that it goes before a new one does.
func (b *bound) doubt(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if place, open := b.conns[c]; open && place == nil {
		b.conns[c] = b.quiet.PushBack(c)
		b.trim()
	}
}

// changed is http.Server's ConnState hook.
func (b *bound) changed(c net.Conn, state http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	place, open := b.conns[c]
	switch {
	case state == http.StateNew || state == http.StateIdle && open && place == nil:
		b.conns[c] = b.quiet.PushBack(c)
		b.trim()
		return
	case state == http.StateIdle: // It was in doubt, and stays where it is; or trim has closed it.
		return
	case place != nil:
		b.quiet.Remove(place)
	}
	switch {
	case !open:
	case state == http.StateActive:
		b.conns[c] = nil
	case state == http.StateClosed || state == http.StateHijacked:
		delete(b.conns, c)
	}
}

// trim closes connections beyond the bound: the longest quiet first, which may be the new one itself.
func (b *bound) trim() {
	for len(b.conns) > b.max && b.quiet.Len() > 0 {
		c := b.quiet.Remove(b.quiet.Front()).(net.Conn)
		delete(b.conns, c)
		_ = c.Close()
	}
}

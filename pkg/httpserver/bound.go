package httpserver

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// bound keeps the number of connections in bounds.
type bound struct {
	max  int
	body time.Duration

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
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(b.body))
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

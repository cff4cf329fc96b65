// Package httpserver runs an HTTP server from its first request to its last, and bounds what its clients can cost:
// connections, header sizes and times. What it serves is for others to say.
package httpserver

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// idleTimeout is how long a connection may wait for its next request.
const idleTimeout = 2 * time.Minute

// Config is what a server needs. There are no defaults.
type Config struct {
	Handler http.Handler
	// MaxConnections is how many connections there are at once. A new one beyond closes the one that has been idle for
	// longest, so that idle clients lock nobody out; if none is idle, the new one is closed.
	MaxConnections int
	// HeaderTimeout is how long a client may take to send a request's headers, and before that to shake hands.
	HeaderTimeout time.Duration
	// BodyTimeout is how long a client may take to send a body where bodies are not wanted. Clients that owe one count as
	// idle, and have their connections closed once they are answered. Zero is for handlers that want bodies, and bound
	// them themselves.
	BodyTimeout time.Duration
	// MaxHeaderBytes bounds a request's headers.
	MaxHeaderBytes int
	// Drain is how long answers on their way may take once the server is told to stop.
	Drain time.Duration
	Log   logr.Logger
}

// Server serves a handler over HTTP. It runs once.
type Server struct {
	http  *http.Server
	drain time.Duration
}

// New makes a server.
func New(cfg Config) *Server {
	b := &bound{max: cfg.MaxConnections, body: cfg.BodyTimeout, quiet: list.New(), conns: map[net.Conn]*list.Element{}}
	handler := cfg.Handler
	if cfg.BodyTimeout > 0 {
		handler = b.wary(handler)
	}
	return &Server{
		drain: cfg.Drain,
		http: &http.Server{
			Handler:                      handler,
			ReadHeaderTimeout:            cfg.HeaderTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               cfg.MaxHeaderBytes,
			DisableGeneralOptionsHandler: true,
			ConnState:                    b.changed,
			ConnContext:                  withConn,
			ErrorLog:                     slog.NewLogLogger(logr.ToSlogHandler(cfg.Log), slog.LevelDebug), // Clients fill no log.
		},
	}
}

// Run serves the listeners, which it closes, until ctx ends; then requests under way have the drain time to finish
// before they are cut off. It returns when no handler runs any more. A listener that fails ends all of it.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	server, drain := s.http, s.drain
	var handlers sync.WaitGroup
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		handler.ServeHTTP(w, r)
	})
	done := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			err := server.Serve(l)
			if errors.Is(err, http.ErrServerClosed) {
				done <- nil
				return
			}
			done <- fmt.Errorf("serve %s: %w", l.Addr(), err)
		}()
	}
	var errs []error
	left := len(listeners)
	select {
	case err := <-done:
		errs, left, drain = append(errs, err), left-1, 0 // Without one of its listeners the rest is of no use.
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(deadline); err != nil {
		errs = append(errs, server.Close()) // The handlers see their contexts end.
	}
	for range left {
		errs = append(errs, <-done)
	}
	handlers.Wait()
	return errors.Join(errs...)
}

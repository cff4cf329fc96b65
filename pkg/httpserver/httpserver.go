// Package httpserver runs an HTTP server from its first request to its last, and bounds what its clients can cost:
// connections, header sizes and times. What it serves is for others to say.
package httpserver

import (
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

// Config is what a server needs. Where no default is named, there is none.
type Config struct {
	Handler http.Handler
	// Secure, if not nil, makes of a listener one whose connections are all of clients that have proven who they are, such
	// as by TLS: NetConn of each leads to the listener's own. How many there are that have not is its concern.
	Secure func(net.Listener) net.Listener
	// MaxConnections is how many connections there are at once of those who have proven who they are, or that they
	// are on this machine. A new one beyond closes the one that has been idle for longest, so that idle clients lock
	// nobody out; if none is idle, one whose client does not read, and else the new one itself.
	MaxConnections int
	// MaxStrangers is how many connections there are of all others, besides, of which one address has no more than half.
	// A new one beyond closes one of the address that has most. MaxConnections by default.
	MaxStrangers int
	// HeaderTimeout is how long a client may take to send a request's headers, and before that to shake hands.
	HeaderTimeout time.Duration
	// BodyTimeout is how long a client may take to send a body.
	BodyTimeout time.Duration
	// Bodies is for handlers that want bodies. Otherwise clients that owe one count as idle, and have their connections
	// closed once they are answered.
	Bodies bool
	// WriteTimeout is how long a client may take to accept four mebibytes, or less where there is less, over all that it
	// asks for. Clients slower than that are cut off.
	WriteTimeout time.Duration
	// MaxHeaderBytes bounds a request's headers.
	MaxHeaderBytes int
	// Drain is how long answers on their way may take once the server is told to stop.
	Drain time.Duration
	Log   logr.Logger
}

// Server serves a handler over HTTP. It runs once.
type Server struct {
	cfg  Config
	door *door
	http *http.Server
}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.MaxStrangers == 0 {
		cfg.MaxStrangers = cfg.MaxConnections
	}
	d := newDoor(&cfg)
	return &Server{
		cfg:  cfg,
		door: d,
		http: &http.Server{
			ReadHeaderTimeout:            cfg.HeaderTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               cfg.MaxHeaderBytes,
			DisableGeneralOptionsHandler: true,
			ConnState:                    d.changed,
			ConnContext:                  withConn,
			ErrorLog:                     slog.NewLogLogger(logr.ToSlogHandler(cfg.Log), slog.LevelDebug), // Clients fill no log.
		},
	}
}

// Run serves the listeners, which it closes, until ctx ends; then requests under way have the drain time to finish
// before they are cut off. It returns when no handler runs any more. A listener that fails ends all of it.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	server, drain := s.http, s.cfg.Drain
	var handlers sync.WaitGroup
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		if c := connOfRequest(r); c != nil {
			defer c.queue(r.Context())()
		}
		s.begin(w, r)
		s.cfg.Handler.ServeHTTP(w, r)
	})
	done := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			err := server.Serve(s.guarded(l))
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

// guarded is a listener whose clients can neither stall nor, where it is secured, stay unknown.
func (s *Server) guarded(l net.Listener) net.Listener {
	l = &pacing{Listener: l, patience: s.cfg.WriteTimeout, door: s.door}
	if s.cfg.Secure != nil {
		l = s.cfg.Secure(l)
	}
	return l
}

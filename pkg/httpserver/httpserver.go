// Package httpserver runs an HTTP server from its first request to its last. What it serves is for others to say.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Run serves the listeners, which it closes, until ctx ends; then requests under way have the time drain to finish
// before they are cut off. It returns when no handler runs any more. A listener that fails ends all of it. A server
// runs once.
func Run(ctx context.Context, server *http.Server, drain time.Duration, listeners ...net.Listener) error {
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

package registrytest

import (
	"fmt"
	"net"
	"net/http"
	"sync"
)

// Switch is an HTTP server that can go down and come back. It is safe for concurrent use.
type Switch struct {
	handler http.Handler
	listen  func() (net.Listener, error)

	mu      sync.Mutex
	server  *http.Server  // nil while stopped
	serving chan struct{} // closed when server no longer accepts
}

// NewSwitch makes one that is down. listen is called each time that it comes up.
func NewSwitch(handler http.Handler, listen func() (net.Listener, error)) *Switch {
	return &Switch{handler: handler, listen: listen}
}

// Stop refuses connections and cuts those that are open, as a registry that is down.
func (s *Switch) Stop() {
	s.mu.Lock()
	server, serving := s.server, s.serving
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		_ = server.Close() // Its listener's error matters to nobody.
		<-serving
	}
}

// Resume ends a Stop.
func (s *Switch) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil
	}
	listener, err := s.listen()
	if err != nil {
		return fmt.Errorf("come back: %w", err)
	}
	server, serving := &http.Server{Handler: s.handler}, make(chan struct{})
	s.server, s.serving = server, serving
	go func() {
		defer close(serving)
		_ = server.Serve(listener) // It ends with Stop alone.
	}()
	return nil
}

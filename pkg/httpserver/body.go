package httpserver

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

type connKey struct{}

// withConn is http.Server's ConnContext hook.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(c))
}

// connOfRequest gives the connection that a request came by, nil in tests without a server.
func connOfRequest(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}

// begin makes of a connection what each request must find: no write deadline that the one before it had set, and a
// body that comes in time. net/http waits for bodies without a deadline.
func (s *Server) begin(w http.ResponseWriter, req *http.Request) {
	c := connOfRequest(req)
	if c == nil {
		return
	}
	_ = c.SetWriteDeadline(time.Time{})
	if req.ContentLength == 0 { // Unlike where the length is not known yet.
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	if s.cfg.Bodies {
		req.Body = &body{ReadCloser: req.Body, control: control}
		return
	}
	// Who owes a body that nobody wants holds up nobody. The deadline outlasts the body, and what net/http reads after a
	// body's end in order to see the client leave would run into it in the middle of a long answer. It does not read so
	// where it will close the connection.
	s.door.doubt(c, true)
	w.Header().Set("Connection", "close")
}

// body takes its deadline away once it is there.
type body struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/door"
	"github.com/kioo-dev/kioo/pkg/httpserver"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
)

const (
	// headerTimeout is how long a member may take to say what it wants.
	headerTimeout = 5 * time.Second
	// maxConnections bounds the connections of members.
	maxConnections = 4096
	// maxHeaderBytes bounds a request's headers. Members send few.
	maxHeaderBytes = 16 << 10
	// queueWait is how long a request waits for a slot before it is sent elsewhere.
	queueWait = 100 * time.Millisecond
	// maxStep and minStep bound how many bytes are written at once under a bandwidth cap. With all slots taken, each
	// upload's turn comes several times a second, so that none looks dead to its client.
	maxStep = 64 << 10
	minStep = 1 << 10
	// controlPrefix begins the paths of everything that is not the registry's API.
	controlPrefix = "/kioo/"
	// writeTimeout is how long a client may take to accept four mebibytes, and bodyTimeout to send what it says.
	writeTimeout, bodyTimeout = time.Minute, 10 * time.Second
)

// ServerConfig is what a server needs.
type ServerConfig struct {
	// Handler answers with what this member holds. It never asks others.
	Handler http.Handler
	// Handle answers what members say to each other beside the registry's API, by patterns of http.ServeMux below
	// /kioo/. It bounds itself: no slots and no bandwidth cap stand before it, so that control messages never wait for
	// uploads.
	Handle map[string]http.Handler
	// Credentials tell members from strangers.
	Credentials *Credentials
	// Lists tells whether an address is known to be a member's: strangers elsewhere keep nobody there from connecting. It
	// must not wait. Nil knows none.
	Lists func(netip.Addr) bool
	// Slots is how many uploads of blobs, and of long parts of blobs, there are at once. More share the link among more
	// members; fewer finish each sooner. 32 by default. A swarm's pieces have as many as swarm.UploadsConfig says.
	Slots int
	// Queue is how many requests may wait for a slot, for a tenth of a second each. More are refused at once, and
	// ask another member. 64 by default.
	Queue int
	// First tells of a request for a piece that nobody else can send it yet, so that it is served beside the slots. Nil
	// never does.
	First func(r *http.Request) bool
	// BytesPerSecond caps all uploads together; 0 is no cap.
	BytesPerSecond int64
	// Drain is how long uploads may take to finish when the server ends. 10 seconds by default.
	Drain time.Duration
	// Violations notes what members say that they can't mean. Nil notes nothing.
	Violations *Violations

	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Server serves what a member holds to other members.
type Server struct {
	cfg     ServerConfig
	http    *httpserver.Server
	tls     *tls.Config
	door    *door.Door
	doors   sync.WaitGroup // What shakes hands.
	control *http.ServeMux
	reads   *gate // Of whole blobs, and of long parts.
	pieces  *gate
	limit   *rate.Limiter // Nil without a cap.
	step    int           // Bytes written at once under a cap.
	refused prometheus.Counter
	sent    prometheus.Counter
}

// NewServer makes a server.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Slots == 0 {
		cfg.Slots = 32
	}
	if cfg.Queue == 0 {
		cfg.Queue = 64
	}
	if cfg.Drain == 0 {
		cfg.Drain = 10 * time.Second
	}
	factory := promauto.With(cfg.Registerer)
	s := &Server{
		cfg:     cfg,
		control: http.NewServeMux(),
		tls:     cfg.Credentials.Server(),
		door:    newDoor(cfg.Lists),
		// One member may have half of it: enough for the layers of an image, and the rest is for others.
		reads:  newGate(swarm.UploadsConfig{Slots: cfg.Slots, Queue: cfg.Queue, PerMember: max(4, cfg.Slots/2)}),
		pieces: newGate(swarm.UploadsConfig{}),
		refused: factory.NewCounter(prometheus.CounterOpts{
			Name: "kioo_peer_uploads_refused_total", Help: "Requests of members that were sent elsewhere because all upload slots were taken.",
		}),
		sent: factory.NewCounter(prometheus.CounterOpts{
			Name: "kioo_peer_uploaded_bytes_total", Help: "Bytes sent to other members.",
		}),
	}
	s.door.Register(cfg.Registerer, "kioo_peer")
	for pattern, handler := range cfg.Handle {
		s.control.Handle(pattern, handler)
	}
	if cfg.BytesPerSecond > 0 {
		s.step = int(min(max(cfg.BytesPerSecond/int64(4*cfg.Slots), minStep), maxStep))
		s.limit = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), max(s.step, int(min(cfg.BytesPerSecond/10, 1<<30))))
	}
	s.http = httpserver.New(httpserver.Config{
		Handler: s, Secure: s.secure, MaxConnections: maxConnections,
		HeaderTimeout: headerTimeout, BodyTimeout: bodyTimeout, Bodies: true, WriteTimeout: writeTimeout,
		MaxHeaderBytes: maxHeaderBytes, Drain: cfg.Drain, Log: cfg.Log,
	})
	return s
}

// Run serves the listeners, which it closes, until ctx ends and the uploads on their way have left.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	err := s.http.Run(ctx, listeners...)
	s.doors.Wait() // They are closed by now.
	return err
}

// secure makes a listener of members out of one of everybody.
func (s *Server) secure(l net.Listener) net.Listener {
	members := newSecured(l, s.tls, s.door)
	s.doors.Go(members.run)
	return members
}

// ServeHTTP implements http.Handler: it answers when there is a slot, and says soon when there is none.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	member, err := check(r)
	if s.cfg.Violations.Note(string(member), r.RemoteAddr, r.URL.Path, err) {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if strings.HasPrefix(r.URL.Path, controlPrefix) {
		s.control.ServeHTTP(w, r)
		return
	}
	w = &upload{ResponseWriter: w, ctx: r.Context(), limit: s.limit, step: s.step, sent: s.sent}
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		s.cfg.Handler.ServeHTTP(w, r) // Small answers need no slot: they tell where to get the large ones.
		return
	}
	member = uploader(r)
	gate, first := s.reads, false
	if r.Header.Get(PieceHeader) != "" {
		gate, first = s.pieces, s.cfg.First != nil && s.cfg.First(r)
	}
	if hint, ok := gate.enter(r.Context(), member, first); !ok {
		s.refused.Inc()
		w.Header().Set("Retry-After", "1") // In whole seconds, for those who do not know the other.
		w.Header().Set(RetryHeader, strconv.FormatInt(hint.Milliseconds(), 10))
		http.Error(w, "all upload slots are taken", http.StatusTooManyRequests)
		return
	}
	defer gate.leave(member)
	s.cfg.Handler.ServeHTTP(w, r)
}

// uploader is whose share of the slots a request takes. The key says that somebody is a member, not which, so that it
// is whoever has the address: members behind one address share. On loopback all have the same, and their word counts.
func uploader(r *http.Request) swarm.ID {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && !from.Addr().Unmap().IsLoopback() {
		return swarm.ID(from.Addr().Unmap().String())
	}
	if name := r.Header.Get(MemberHeader); name != "" {
		return swarm.ID(name)
	}
	return swarm.ID(r.RemoteAddr)
}

// upload counts what is sent, and slows it down under a cap.
type upload struct {
	http.ResponseWriter
	ctx   context.Context
	limit *rate.Limiter
	step  int
	sent  prometheus.Counter
	buf   []byte
}

// Unwrap is for http.ResponseController.
func (u *upload) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// Write implements http.ResponseWriter.
func (u *upload) Write(p []byte) (written int, err error) {
	for len(p) > 0 || written == 0 {
		step := p
		if u.limit != nil {
			step = p[:min(len(p), u.step)]
			if err := u.limit.WaitN(u.ctx, len(step)); err != nil {
				return written, fmt.Errorf("wait for bandwidth: %w", err)
			}
		}
		n, err := u.ResponseWriter.Write(step)
		written += n
		u.sent.Add(float64(n))
		if err != nil || len(step) == len(p) {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// ReadFrom implements io.ReaderFrom. Under TLS the kernel can't copy, so that all that counts is few, large reads.
func (u *upload) ReadFrom(src io.Reader) (int64, error) {
	if u.buf == nil {
		u.buf = make([]byte, 256<<10)
	}
	return io.CopyBuffer(struct{ io.Writer }{u}, src, u.buf)
}

// Package registry is the pull side of the OCI distribution API, for the node's own clients and for other members.
//
// It turns requests into names and answers into responses, with the headers, statuses and error bodies that container
// runtimes rely on, and bounds what clients can cost. What to answer is the mirror's decision.
package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/httpserver"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Backend answers what the API is asked. Errors are as those of package mirror.
type Backend interface {
	// Check refuses repositories that nothing is answered for. Both parts may be empty.
	Check(repo reference.Repository) error
	Manifest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*mirror.Answer, error)
	// Blob answers for a blob. resumed says that the client has its beginning already.
	Blob(ctx context.Context, ref reference.Reference, resumed bool, origin upstream.Origin) (*mirror.Answer, error)
	Stat(ctx context.Context, ref reference.Reference, origin upstream.Origin) (desc ocispec.Descriptor, source string, err error)
	Tags(ctx context.Context, repo reference.Repository, n int, last string, origin upstream.Origin) (upstream.TagList, error)
	Referrers(ctx context.Context, ref reference.Reference, artifactType string, origin upstream.Origin) (ocispec.Index, error)
}

// Config is what the API needs.
type Config struct {
	Resolver reference.Resolver
	Backend  Backend
	// Pseudonym is this process's name in Via headers (RFC 9110, section 7.6.3). A request that has it already went
	// in a circle.
	Pseudonym string
	// Names, if not nil, are those that requests must be for. Other members ask for none.
	Names *httpserver.Names
	// MaxHops is how many proxies a request may have come through, by its Via header.
	MaxHops int
	// RelayPathForm tells for which repositories clients that say the registry in the path, or not at all, get to hear
	// upstream's challenges, and have their credentials passed on. Nil: for none. Those that say it by ns always do.
	RelayPathForm func(repo reference.Repository) bool

	// Pulled hears of content that a client got, to its end. It must not wait. Nil: nobody does.
	Pulled func(p Pull)

	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Pull is a manifest or a blob that a client got.
type Pull struct {
	Ref        reference.Reference
	Descriptor ocispec.Descriptor
	// Path is what was asked for, below the address of the mirror.
	Path string
	// ID is the request's.
	ID                              string
	Client, Host, Method, UserAgent string
}

// Handler serves the API. It is safe for concurrent use.
type Handler struct {
	cfg      Config
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// New makes a handler.
func New(cfg Config) *Handler {
	factory := promauto.With(cfg.Registerer)
	return &Handler{
		cfg: cfg,
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_requests_total", Help: "Requests of the node's clients by endpoint, method and status code.",
		}, []string{"endpoint", "method", "code"}),
		bytes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_served_bytes_total", Help: "Bytes of content sent to the node's clients, by where they came from.",
		}, []string{"source"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kioo_request_duration_seconds", Help: "Time from a request's headers to the end of its answer, by endpoint and source.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
		}, []string{"endpoint", "source"}),
	}
}

// exchange is one request and what became of it.
type exchange struct {
	id     string
	kind   reference.Kind
	named  bool // kind and ref are known.
	relays bool // The client's credentials, and challenges to it, are passed on.
	ref    reference.Reference
	source string
	stale  bool
	// desc is what was sent, to its end if whole is set.
	desc  ocispec.Descriptor
	whole bool
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	var (
		began = time.Now()
		w     = &response{ResponseWriter: rw}
		x     = &exchange{id: requestID(req), source: "none"}
	)
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Request-Id", x.id)
	err := h.serve(w, req, x)
	if err != nil && w.status == 0 {
		refused(x, err).write(w)
	}
	h.record(w, req, x, err, time.Since(began))
	if h.cfg.Pulled != nil && err == nil && x.whole && req.Method == http.MethodGet {
		h.cfg.Pulled(Pull{
			Ref: x.ref, Descriptor: x.desc, Path: cut(req.URL.EscapedPath()), ID: x.id,
			Client: req.RemoteAddr, Host: cut(req.Host), Method: req.Method, UserAgent: cut(req.UserAgent()),
		})
	}
}

// serve answers a request, or says in an error why it can't. Once a status is written, an error means that the
// answer broke off; the server then closes the connection short of the length that it had announced.
func (h *Handler) serve(w *response, req *http.Request, x *exchange) error {
	if h.cfg.Names != nil {
		if r := h.cfg.Names.Check(req); r != nil {
			return refuse(r.Status, codeDenied, "%s", r.Reason)
		}
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		r := refuse(http.StatusMethodNotAllowed, reference.CodeUnsupported, "this registry is a mirror to pull from; %s is not supported", cut(req.Method))
		r.header = http.Header{"Allow": {"GET, HEAD"}}
		return r
	}
	if err := h.checkHops(req); err != nil {
		return err
	}
	named, err := h.cfg.Resolver.Resolve(req.URL)
	if err != nil {
		return err
	}
	x.kind, x.ref, x.named = named.Kind, named.Reference, true
	x.relays = named.ByQuery || h.cfg.RelayPathForm != nil && h.cfg.RelayPathForm(named.Repository)
	if named.Registry != "" {
		w.Header().Set("OCI-Namespace", named.Registry)
	}
	if err := h.cfg.Backend.Check(named.Repository); err != nil {
		return err
	}
	switch named.Kind {
	case reference.KindManifest:
		return h.manifest(w, req, x)
	case reference.KindBlob:
		return h.blob(w, req, x)
	case reference.KindTags:
		return h.tags(w, req, x)
	case reference.KindReferrers:
		return h.referrers(w, req, x)
	}
	return writeJSON(w, "application/json", struct{}{})
}

// checkHops refuses requests that have been here or have come too far.
func (h *Handler) checkHops(req *http.Request) error {
	hops := 0
	for _, via := range req.Header.Values("Via") {
		for _, hop := range strings.Split(via, ",") {
			hops++
			if fields := strings.Fields(hop); len(fields) > 1 && fields[1] == h.cfg.Pseudonym {
				return fmt.Errorf("%w: the request has been at %s before", upstream.ErrLoop, h.cfg.Pseudonym)
			}
		}
	}
	if hops > h.cfg.MaxHops {
		return fmt.Errorf("%w: the request has come through %d proxies, more than %d", upstream.ErrLoop, hops, h.cfg.MaxHops)
	}
	return nil
}

// origin says for whom upstream is asked. What a client sends that can't tell registries apart was meant for any of
// them: it counts as sent only where configuration says for which it is.
func origin(req *http.Request, x *exchange) upstream.Origin {
	client, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		client = req.RemoteAddr
	}
	if before := req.Header.Values("X-Forwarded-For"); len(before) > 0 {
		client = strings.Join(before, ", ") + ", " + client
	}
	o := upstream.Origin{
		ForwardedFor: client, Via: req.Header.Values("Via"), Claim: access.Claim(req.Header.Get(peer.ClaimHeader)),
	}
	if x.relays {
		o.Credentials = access.NewCredentials(req.Header.Get("Authorization"))
	}
	return o
}

// record counts a request and writes its line in the log.
func (h *Handler) record(w *response, req *http.Request, x *exchange, err error, took time.Duration) {
	endpoint, method := "unknown", "other"
	if x.named {
		endpoint = x.kind.String()
	}
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		method = req.Method
	}
	h.requests.WithLabelValues(endpoint, method, strconv.Itoa(w.status)).Inc()
	h.duration.WithLabelValues(endpoint, x.source).Observe(took.Seconds())
	if w.content > 0 {
		h.bytes.WithLabelValues(x.source).Add(float64(w.content))
	}
	if err == nil && !h.cfg.Log.Enabled() {
		return
	}
	fields := []any{
		"id", x.id, "method", cut(req.Method), "endpoint", endpoint, "ref", x.ref.String(), "status", w.status,
		"source", x.source, "bytes", w.content, "duration", took.Round(time.Microsecond).String(), "client", cut(req.UserAgent()),
	}
	switch {
	case !x.named:
		fields[7] = cut(req.URL.EscapedPath())
	case x.kind == reference.KindBase:
		h.cfg.Log.V(1).Info("request", fields...)
		return
	}
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		fields = append(fields, "reason", "the client left")
	default:
		fields = append(fields, "reason", err.Error())
	}
	if x.stale {
		fields = append(fields, "stale", true)
	}
	h.cfg.Log.Info("request", fields...)
}

// cut shortens what a client may make as long as the headers may be, so that nobody fills the log's disk with it.
func cut(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// requestID takes over a client's id if it is a sane one, so that its log and ours can be read together.
func requestID(req *http.Request) string {
	id := req.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return rand.Text()[:16]
	}
	return id
}

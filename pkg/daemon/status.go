package daemon

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/httpserver"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

const (
	// maxStatusConnections is enough for a few scrapers, probes or people.
	maxStatusConnections = 64
	// statusTimeout is how long an answer may take, and its client with taking it. Metrics are some 50 KiB.
	statusTimeout = 30 * time.Second
)

// status is the servers for those who watch the mirror and tell it what to do. Each has bounds of its own, so that
// nothing that happens to one of them, or to the mirror, keeps the others from answering.
type status struct {
	metrics *prometheus.Registry
	turns   *turns
	log     logr.Logger
	ready   atomic.Bool
	names   []string // By which monitors ask.
	// control does what people on this machine ask for.
	control http.Handler
}

func newStatus(d *Daemon) *status {
	return &status{
		metrics: d.metrics, turns: newTurns(), log: d.log, names: d.cfg.Metrics.Hosts, control: d.control.local(),
	}
}

// health answers whether the mirror lives and is ready, of what is in memory.
func (s *status) health() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // The prober may have left.
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			http.Error(w, "not serving", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}

// monitors answers with the metrics, and as health does for those who watch from elsewhere.
func (s *status) monitors() http.Handler {
	mux := s.health()
	mux.Handle("GET /metrics", s.turns.take(promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{})))
	return http.TimeoutHandler(mux, statusTimeout, "too slow\n")
}

// run serves until ctx ends.
func (s *status) run(ctx context.Context, w *watching) error {
	group, ctx := errgroup.WithContext(ctx)
	if w.metrics != nil {
		names := &httpserver.Names{Field: "metrics.hosts", More: s.names}
		group.Go(func() error { return s.server(names.Guard(s.monitors())).Run(ctx, w.metrics) })
	}
	if w.health != nil {
		names := &httpserver.Names{}
		group.Go(func() error { return s.server(names.Guard(s.health())).Run(ctx, w.health) })
	}
	group.Go(func() error { return s.server(s.control).Run(ctx, w.control) })
	return group.Wait()
}

func (s *status) server(handler http.Handler) *httpserver.Server {
	return httpserver.New(httpserver.Config{
		Handler: handler, MaxConnections: maxStatusConnections, HeaderTimeout: 5 * time.Second, BodyTimeout: 5 * time.Second,
		WriteTimeout: statusTimeout, MaxHeaderBytes: 16 << 10, Log: s.log,
	})
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kioo_build_info", Help: "1, with the version of kioo and of Go that it was built with.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}

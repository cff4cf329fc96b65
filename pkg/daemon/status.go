package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/httpserver"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// maxStatusConnections is enough for a few scrapers and probes.
	maxStatusConnections = 64
	// statusTimeout is how long an answer may take. Metrics are some 50 KiB.
	statusTimeout = 30 * time.Second
)

// status is the server for those who watch the mirror: metrics, and whether it lives and is ready.
type status struct {
	metrics *prometheus.Registry
	log     logr.Logger
	ready   atomic.Bool
	// control answers for what is below /kioo/, in its own time.
	control http.Handler
}

func (s *status) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
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

// outer gives those who ask for something to be done all the time that it takes.
func (s *status) outer() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.TimeoutHandler(s.handler(), statusTimeout, "too slow\n"))
	if s.control != nil {
		mux.Handle("/kioo/", s.control)
	}
	return mux
}

// run serves until ctx ends.
func (s *status) run(ctx context.Context, l net.Listener) error {
	server := httpserver.New(httpserver.Config{
		Handler: s.outer(), MaxConnections: maxStatusConnections,
		HeaderTimeout: 5 * time.Second, BodyTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, Log: s.log,
	})
	return server.Run(ctx, l)
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kioo_build_info", Help: "1, with the version of kioo and of Go that it was built with.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}

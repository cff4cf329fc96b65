package upstream

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// maxLabels is how many registries have a label of their own: the first ones that answered. Names come from clients,
// and a name that never answered gets none. The rest is "other".
const maxLabels = 64

type metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec

	mu     sync.Mutex
	labels map[string]bool
}

func newMetrics(reg prometheus.Registerer) *metrics {
	factory := promauto.With(reg)
	return &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_upstream_requests_total",
			Help: "Requests to registries and the storage they redirect to, by registry and HTTP status (\"error\": no answer).",
		}, []string{"registry", "code"}),
		bytes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_upstream_bytes_total",
			Help: "Bytes of answers received from registries and the storage they redirect to, by registry.",
		}, []string{"registry"}),
		labels: make(map[string]bool),
	}
}

// answered counts a request; status 0 means that there was no answer.
func (m *metrics) answered(host string, status int) {
	code := "other"
	switch {
	case status == 0:
		code = "error"
	case http.StatusText(status) != "":
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(m.label(host, status != 0), code).Inc()
}

func (m *metrics) received(host string) prometheus.Counter {
	return m.bytes.WithLabelValues(m.label(host, false))
}

func (m *metrics) label(host string, add bool) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.labels[host] {
		return host
	}
	if !add || len(m.labels) >= maxLabels {
		return "other"
	}
	m.labels[host] = true
	return host
}

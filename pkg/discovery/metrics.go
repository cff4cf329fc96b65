package discovery

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests, served, rounds     *prometheus.CounterVec
	failures, refused, redirects prometheus.Counter
	refusedMessages              *prometheus.CounterVec
	lookups                      *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, d *Discovery) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "kioo_discovery_" + name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "kioo_discovery_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels prometheus.Labels, value func() int) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "kioo_discovery_" + name, Help: help, ConstLabels: labels}, func() float64 {
			d.mu.Lock()
			defer d.mu.Unlock()
			return float64(value())
		})
	}
	const help = "Other members by how well they are known: live, known by hearsay, or suspected dead."
	gauge("members", help, prometheus.Labels{"state": "live"}, func() int { n, _, _ := d.table.Count(); return n })
	gauge("members", help, prometheus.Labels{"state": "hearsay"}, func() int { _, n, _ := d.table.Count(); return n })
	gauge("members", help, prometheus.Labels{"state": "suspect"}, func() int { _, _, n := d.table.Count(); return n })
	gauge("records", "Records kept for all members.", nil, func() int { return d.index.Len() })
	gauge("announced_keys", "Keys that this member announces.", nil, func() int { return d.book.Len() })
	gauge("pending_keys", "Keys that some member still has to be told of.", nil, func() int { return d.book.Pending() })
	d.door.Register(reg, "kioo_discovery")
	return &metrics{
		requests: counters("requests_total", "Requests to other members.", "kind", "result"),
		served:   counters("served_total", "Requests of other members.", "kind"),
		rounds:   counters("bootstrap_rounds_total", "Rounds of bootstrap.", "result"),
		failures: counter("failures_total", "Members found not to answer."),
		refusedMessages: counters("refused_messages_total",
			"Messages of members that ended the conversation, by what of them was outside of its domain.", "reason"),
		refused:   counter("refused_total", "Announced entries that a member had no room for."),
		redirects: counter("redirects_total", "Redirects followed by look-ups."),
		lookups: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kioo_discovery_lookup_duration_seconds", Help: "Time to find the providers of a key.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .3, 1, 2},
		}, []string{"result"}),
	}
}

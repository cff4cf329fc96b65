package door

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Register shows what the door counts as metrics whose names begin with prefix, such as "kioo_peer".
func (d *Door) Register(reg prometheus.Registerer, prefix string) {
	f := promauto.With(reg)
	for s := range standings {
		labels := prometheus.Labels{"from": s.String()}
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: prefix + "_connections", ConstLabels: labels,
			Help: "Open inbound connections: of strangers, of listed addresses that have not proven to be a member yet, of members.",
		}, func() float64 { return float64(d.len(s)) })
		f.NewCounterFunc(prometheus.CounterOpts{
			Name: prefix + "_connections_displaced_total", ConstLabels: labels,
			Help: "Inbound connections that were closed for others, by what they were counted as.",
		}, func() float64 { return float64(d.displaced[s].Load()) })
	}
}

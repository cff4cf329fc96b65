package containerd

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	missed      prometheus.Counter
	disconnects prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, s *Store) *metrics {
	factory := promauto.With(registerer)
	gauge := func(name, help string, read func(Status) float64) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return read(s.Status()) })
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("kioo_containerd_up", "1 while containerd answers and its events arrive.",
		func(st Status) float64 { return flag(st.Connected) })
	gauge("kioo_containerd_watching", "1 while containerd's content directory is watched.",
		func(st Status) float64 { return flag(st.Watched) })
	gauge("kioo_containerd_blobs", "Blobs that containerd holds, as far as they are kept track of.",
		func(st Status) float64 { return float64(st.Blobs) })
	gauge("kioo_containerd_tags", "Tags that containerd's images have, and whose manifests it holds.",
		func(st Status) float64 { return float64(st.Tags) })
	return &metrics{
		missed: factory.NewCounter(prometheus.CounterOpts{
			Name: "kioo_containerd_missed_changes_total",
			Help: "Blobs that came or went unnoticed, until a full comparison found out.",
		}),
		disconnects: factory.NewCounter(prometheus.CounterOpts{
			Name: "kioo_containerd_disconnects_total", Help: "Times that containerd stopped answering.",
		}),
	}
}

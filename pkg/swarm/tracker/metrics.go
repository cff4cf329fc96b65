package tracker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type serviceMetrics struct {
	announces *prometheus.CounterVec
	waits     prometheus.Counter
}

func newServiceMetrics(reg prometheus.Registerer, s *Service) *serviceMetrics {
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kioo_coordinator_waiting", Help: "Announces that wait here for something to do.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.waiting)
	})
	return &serviceMetrics{
		announces: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_coordinator_announces_total",
			Help: "Announces that reached this member, by what became of them: answered, redirected to a closer member, crowded (answered at once instead of waiting), malformed.",
		}, []string{"result"}),
		waits: factory.NewCounter(prometheus.CounterOpts{
			Name: "kioo_coordinator_waits_total", Help: "Announces that waited here for something to do.",
		}),
	}
}

type clientMetrics struct {
	announces                 *prometheus.CounterVec
	hedges, redirects, silent prometheus.Counter
}

func newClientMetrics(reg prometheus.Registerer) *clientMetrics {
	factory := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &clientMetrics{
		announces: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_announces_total",
			Help: "Announces of this member, by how they were answered: self (it is the tracker itself), peer, none.",
		}, []string{"result"}),
		hedges:    counter("kioo_announce_hedges_total", "Announces repeated to the next-closest member because the closest was silent."),
		redirects: counter("kioo_announce_redirects_total", "Redirects to closer members that announces followed."),
		silent:    counter("kioo_announce_silent_total", "Members that did not answer an announce in time."),
	}
}

package registrytest

import (
	"net/http"
	"time"
)

// Only limits a hook to the requests that match.
func Only(match func(*http.Request) bool, hook Hook) Hook {
	return func(next http.Handler) http.Handler {
		hooked := hook(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match(r) {
				hooked.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Delay lets each request wait before the registry sees it.
func Delay(d time.Duration) Hook {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if wait(r, d) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// Answer answers with a status and nothing else.
func Answer(status int) Hook {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	}
}

// Throttle sends each response's body at no more than that many bytes per second.
func Throttle(bytesPerSecond int64) Hook {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&throttledWriter{ResponseWriter: w, r: r, rate: bytesPerSecond, start: time.Now()}, r)
		})
	}
}

type throttledWriter struct {
	http.ResponseWriter
	r     *http.Request
	rate  int64
	start time.Time
	sent  int64
}

// Unwrap lets http.ResponseController flush.
func (w *throttledWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write writes in steps of about ten milliseconds, each at the time when it is due.
func (w *throttledWriter) Write(b []byte) (int, error) {
	var written int
	for written < len(b) {
		due := w.start.Add(time.Duration(float64(w.sent) / float64(w.rate) * float64(time.Second)))
		if !wait(w.r, time.Until(due)) {
			return written, w.r.Context().Err()
		}
		step := int(min(max(w.rate/100, 1), int64(len(b)-written)))
		n, err := w.ResponseWriter.Write(b[written : written+step])
		written, w.sent = written+n, w.sent+int64(n)
		if err != nil {
			return written, err
		}
		if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
			return written, err
		}
	}
	return written, nil
}

// wait returns false if the client left before d had passed.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-timer.C:
		return true
	}
}

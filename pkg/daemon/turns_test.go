package daemon

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
)

// TestTurns has one source ask without end, and another one once: he waits for one answer at most.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			turns   = newTurns()
			release = make(chan struct{})
			mu      sync.Mutex
			inside  = map[string]int{}
			group   sync.WaitGroup
		)
		handler := turns.take(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			inside[r.RemoteAddr]++
			mu.Unlock()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}))
		ask := func(from string, ctx context.Context) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil).WithContext(ctx)
			r.RemoteAddr = from
			w := httptest.NewRecorder()
			group.Go(func() { handler.ServeHTTP(w, r) })
			synctest.Wait()
			return w
		}
		for range 1000 {
			ask("10.0.0.1:1", t.Context())
		}
		if inside["10.0.0.1:1"] != 1 {
			t.Errorf("%d answers for one source at once", inside["10.0.0.1:1"])
		}
		ask("10.0.0.2:1", t.Context())
		if inside["10.0.0.2:1"] != 1 {
			t.Error("the other one waits")
		}
		gone, leave := context.WithCancel(t.Context())
		late := ask("10.0.0.3:1", gone)
		leave()
		synctest.Wait()
		if late.Code != http.StatusServiceUnavailable {
			t.Errorf("who did not wait got %d", late.Code)
		}
		close(release)
		group.Wait()
		if inside["10.0.0.1:1"] != 1000 || len(turns.sources) != 0 || len(turns.all) != 0 {
			t.Errorf("%d answers, %d sources are left", inside["10.0.0.1:1"], len(turns.sources))
		}
	})
}

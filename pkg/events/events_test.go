package events

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a webhook that notes what it is told, and refuses as a test wants it.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	got      []Event
	requests []*http.Request
	refuse   func(n int) bool
	news     chan struct{}
}

func newReceiver(t *testing.T, refuse func(n int) bool) *receiver {
	r := &receiver{refuse: refuse, news: make(chan struct{}, 10_000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests = append(r.requests, req)
		if r.refuse != nil && r.refuse(len(r.requests)) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var body struct{ Events []Event }
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		r.got = append(r.got, body.Events...)
		for range body.Events {
			r.news <- struct{}{}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// await waits for n events.
func (r *receiver) await(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for i := range n {
		select {
		case <-r.news:
		case <-deadline:
			t.Fatalf("only %d of %d events arrived", i, n)
		}
	}
}

func (r *receiver) told() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	times := map[string]int{}
	for _, e := range r.got {
		times[e.Target.Repository]++
	}
	return times
}

func start(t *testing.T, cfg Config) (q *Queue, stop func()) {
	t.Helper()
	if cfg.Log.GetSink() == nil {
		cfg.Log = logr.Discard()
	}
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	return q, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
}

func event(i int) Event {
	return Event{Action: Pull, Target: Target{Repository: fmt.Sprint("r/", i)}}
}

func TestFormat(t *testing.T) {
	r := newReceiver(t, nil)
	dir := t.TempDir()
	secret := filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte("Bearer s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	q, stop := start(t, Config{
		Path: filepath.Join(dir, "events.db"), Endpoints: []Endpoint{{URL: r.URL + "/hook", AuthorizationFile: secret}},
		Source: Source{Addr: "127.0.0.1:28500", InstanceID: "kioo-x"}, Now: func() time.Time { return at },
	})
	defer stop()
	q.Emit(Event{
		Action:  Pull,
		Target:  Target{MediaType: "m", Digest: "sha256:x", Size: 5, Length: 5, Repository: "quay.io/a", URL: "http://127.0.0.1:28500/v2/a", Tag: "v1"},
		Request: Request{ID: "id", Addr: "127.0.0.1:1", Host: "127.0.0.1:28500", Method: "GET", UserAgent: "containerd/2"},
	})
	r.await(t, 1)
	req, got := r.requests[0], r.got[0]
	if req.Method != http.MethodPost || req.URL.Path != "/hook" || req.Header.Get("Content-Type") != MediaType || req.Header.Get("Authorization") != "Bearer s3cret" {
		t.Errorf("%s %s %v", req.Method, req.URL, req.Header)
	}
	if got.ID == "" || !got.Timestamp.Equal(at) || got.Source.InstanceID != "kioo-x" || got.Target.Tag != "v1" || got.Request.UserAgent != "containerd/2" {
		t.Errorf("%+v", got)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{`"id":`, `"timestamp":"2026-01-02T03:04:05Z"`, `"action":"pull"`, `"mediaType":"m"`, `"digest":"sha256:x"`, `"size":5`, `"length":5`,
		`"repository":"quay.io/a"`, `"tag":"v1"`, `"addr":"127.0.0.1:1"`, `"useragent":`, `"actor":{}`, `"instanceID":"kioo-x"`} {
		if !strings.Contains(string(data), name) {
			t.Errorf("%s is missing in %s", name, data)
		}
	}
}

// TestRestart emits while a receiver is down and the queue is stopped and opened again: each event arrives, at least
// once.
func TestRestart(t *testing.T) {
	down := true
	r := newReceiver(t, func(int) bool { return down })
	cfg := Config{Path: filepath.Join(t.TempDir(), "events.db"), Endpoints: []Endpoint{{URL: r.URL}}}
	for round := range 3 {
		q, stop := start(t, cfg)
		for i := range 100 {
			q.Emit(event(round*100 + i))
		}
		stop()
	}
	r.mu.Lock()
	down = false
	r.mu.Unlock()
	_, stop := start(t, cfg)
	r.await(t, 300)
	stop()
	q, stop := start(t, cfg)
	q.Emit(event(300))
	for r.told()["r/300"] == 0 { // What was sent in the instant of the stop comes again before it.
		r.await(t, 1)
	}
	stop()
	again := 0
	for i := range 301 {
		n := r.told()[fmt.Sprint("r/", i)]
		if n == 0 {
			t.Errorf("event %d did not arrive", i)
		}
		again += n - 1
	}
	if again > maxBatch {
		t.Errorf("%d events arrived again", again)
	}
}

// TestRetries has a receiver that refuses, and one beside it that does not suffer from that.
func TestRetries(t *testing.T) {
	bad := newReceiver(t, func(n int) bool { return n == 1 })
	good := newReceiver(t, nil)
	var mu sync.Mutex
	var lines []string
	q, stop := start(t, Config{
		Path: filepath.Join(t.TempDir(), "events.db"),
		Endpoints: []Endpoint{
			{URL: bad.URL + "/?key=s3cret"}, {URL: good.URL, Actions: []string{Delete}},
		},
		Log: funcr.New(func(_, line string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		}, funcr.Options{}),
	})
	q.Emit(event(1))
	q.Emit(Event{Action: Delete, Target: Target{Repository: "r/2"}})
	good.await(t, 1)
	bad.await(t, 2)
	q.Emit(event(3))
	bad.await(t, 1) // By now it has been noticed that the first ones arrived.
	stop()
	if told := good.told(); told["r/1"] != 0 || told["r/2"] != 1 {
		t.Errorf("%v", told)
	}
	text := strings.Join(lines, "\n")
	if !strings.Contains(text, "503") || !strings.Contains(text, "told again") || strings.Contains(text, "s3cret") {
		t.Errorf("log: %s", text)
	}
}

func TestBounds(t *testing.T) {
	r := newReceiver(t, func(int) bool { return true })
	metrics := prometheus.NewRegistry()
	q, stop := start(t, Config{
		Path: filepath.Join(t.TempDir(), "events.db"), Endpoints: []Endpoint{{URL: r.URL}}, MaxQueued: 10, Registerer: metrics,
	})
	for i := range 2 * maxBuffered {
		q.Emit(event(i)) // It returns at once whatever happens.
	}
	stop()
	if n := testutil.ToFloat64(q.dropped.WithLabelValues("queue")) + testutil.ToFloat64(q.dropped.WithLabelValues("memory")); n != 2*maxBuffered-10 {
		t.Errorf("%v events were dropped", n)
	}
	if q.disk.total() != 10 {
		t.Errorf("%d events are queued", q.disk.total())
	}
}

func TestBrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newReceiver(t, nil)
	q, stop := start(t, Config{Path: path, Endpoints: []Endpoint{{URL: r.URL}}})
	defer stop()
	q.Emit(event(1))
	r.await(t, 1)
}

// Whatever an endpoint was owed goes with it.
func TestEndpointGone(t *testing.T) {
	r := newReceiver(t, func(int) bool { return true })
	path := filepath.Join(t.TempDir(), "events.db")
	q, stop := start(t, Config{Path: path, Endpoints: []Endpoint{{URL: r.URL}}})
	q.Emit(event(1))
	stop()
	if q.disk.total() != 1 {
		t.Fatalf("%d events", q.disk.total())
	}
	q, stop = start(t, Config{Path: path})
	defer stop()
	if q.disk.total() != 0 {
		t.Errorf("%d events", q.disk.total())
	}
	if _, err := Open(Config{Path: path + "2", Endpoints: []Endpoint{{URL: "https://e.io", CAFile: os.DevNull}}}); err == nil {
		t.Error("an empty CA file was taken")
	}
}

// URLs may hold secrets, and the file outlives them.
func TestFileTellsNoURL(t *testing.T) {
	r := newReceiver(t, func(int) bool { return true })
	path := filepath.Join(t.TempDir(), "events.db")
	q, stop := start(t, Config{Path: path, Endpoints: []Endpoint{{URL: r.URL + "/?key=s3cret"}}})
	q.Emit(event(1))
	stop()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "r/1") || strings.Contains(string(data), "s3cret") {
		t.Error("the file lacks the event, or has the URL")
	}
}

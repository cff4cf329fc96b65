package daemon_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testConfig(t *testing.T) *config.Config {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.Mirror.Listen = []string{"127.0.0.1:0"}
	cfg.Metrics.Listen, cfg.Health.Listen = "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

// start runs a daemon until the test ends it.
func start(t *testing.T, cfg *config.Config) (d *daemon.Daemon, stop func() error) {
	t.Helper()
	d, err := daemon.New(daemon.Config{Config: cfg, Log: logr.Discard(), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = func() error { cancel(); return <-done }
	t.Cleanup(cancel)
	<-d.Ready()
	return d, stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServesAndKeeps(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	blob := strings.Repeat("layer", 1000)
	asked := 0
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if ua := r.UserAgent(); ua != "kioo/test" {
			t.Errorf("User-Agent is %q", ua)
		}
		if via := r.Header.Get("Via"); !strings.HasPrefix(via, "1.1 kioo-") {
			t.Errorf("Via is %q", via)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(blob))
	}))
	defer remote.Close()
	cfg := testConfig(t)
	entry := config.DefaultRegistry()
	entry.Match, entry.Endpoints = "registry.example.com", []config.Endpoint{config.EndpointAt(remote.URL)}
	cfg.Registries = []config.Registry{entry}

	for round := range 2 { // The second is a restart.
		d, stop := start(t, cfg)
		base := "http://" + d.Addrs()[0].String()
		status := "http://" + d.MetricsAddr().String()
		if code, body := get(t, base+"/v2/org/app/blobs/"+digest.FromString(blob).String()+"?ns=registry.example.com"); code != 200 || body != blob {
			t.Errorf("round %d: %d, %d bytes", round, code, len(body))
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			for _, at := range []string{status, "http://" + d.HealthAddr().String()} {
				if code, body := get(t, at+path); code != 200 || body != "ok\n" {
					t.Errorf("%s: %d %q", path, code, body)
				}
			}
		}
		code, metrics := get(t, status+"/metrics")
		source := []string{"upstream", "cache"}[round]
		want := `kioo_served_bytes_total{api="node",source="` + source + `"} 5000`
		for deadline := time.Now().Add(5 * time.Second); !strings.Contains(metrics, want) && time.Now().Before(deadline); {
			code, metrics = get(t, status+"/metrics") // What was sent is counted a moment after it has arrived.
		}
		if code != 200 || !strings.Contains(metrics, want) {
			t.Errorf("round %d: metrics lack %s", round, want)
		}
		lint(t, metrics)
		if err := stop(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if _, err := net.Dial("tcp", d.Addrs()[0].String()); err == nil {
			t.Error("it still listens")
		}
	}
	if asked != 1 {
		t.Errorf("upstream was asked %d times", asked)
	}
}

func lint(t *testing.T, metrics string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(metrics)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "kioo_") {
			t.Errorf("metric %s: %s", p.Metric, p.Text)
		}
	}
}

// TestDrain ends a daemon while an answer is on its way: the answer arrives whole, and Run returns then.
func TestDrain(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	body := strings.Repeat("0123456789abcdef", 1<<16)
	release := make(chan struct{})
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1048576")
		_, _ = io.WriteString(w, body[:1<<19])
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, body[1<<19:])
	}))
	defer remote.Close()
	cfg := testConfig(t)
	entry := config.DefaultRegistry()
	entry.Endpoints = []config.Endpoint{config.EndpointAt(remote.URL)}
	cfg.Registries = []config.Registry{entry}
	d, stop := start(t, cfg)
	resp, err := http.Get("http://" + d.Addrs()[0].String() + "/v2/org/app/blobs/" + digest.FromString(body).String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for { // Until it takes no new connections.
		conn, err := net.Dial("tcp", d.Addrs()[0].String())
		if err != nil {
			break
		}
		conn.Close()
	}
	close(release)
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStartErrorsNameTheField(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for field, change := range map[string]func(*config.Config){
		"mirror.listen":  func(c *config.Config) { c.Mirror.Listen = []string{taken.Addr().String()} },
		"metrics.listen": func(c *config.Config) { c.Metrics.Listen = taken.Addr().String() },
		"health.listen":  func(c *config.Config) { c.Health.Listen = taken.Addr().String() },
	} {
		cfg := testConfig(t)
		change(cfg)
		_, err := daemon.New(daemon.Config{Config: cfg, Log: logr.Discard(), Version: "test"})
		if err == nil || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), taken.Addr().String()) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// apiServer answers for one DaemonSet, which becomes ready at the given request.
func apiServer(t *testing.T, readyAt int64) (kubeconfig string) {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/apps/v1/namespaces/ns/daemonsets/d" {
			http.NotFound(w, r)
			return
		}
		ready := 1
		if asked.Add(1) >= readyAt {
			ready = 3
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"d","generation":2},
			"status":{"observedGeneration":2,"desiredNumberScheduled":3,"numberReady":%d}}`, ready)
	}))
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],
clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c, user: u}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func testAwaitDaemonSet(t *testing.T) {
	if got := must(t, "await", "--daemonset", "ns/d", "--kubeconfig", apiServer(t, 2)); !strings.Contains(got, "ns/d is ready") {
		t.Errorf("it prints %q", got)
	}
	if code, _, stderr := call(t, "await", "--daemonset", "d"); code != exitUsage || !strings.Contains(stderr, "a namespace and a name") {
		t.Errorf("without a namespace it ends with %d and prints %q", code, stderr)
	}
}

func testAwaitTimeout(t *testing.T) {
	code, _, stderr := call(t, "await", "--daemonset", "ns/d", "--kubeconfig", apiServer(t, 1000), "--timeout", "2500ms")
	if code != exitFailed || !strings.Contains(stderr, "1 of 3 nodes are done") {
		t.Errorf("it ends with %d and prints %q", code, stderr)
	}
}

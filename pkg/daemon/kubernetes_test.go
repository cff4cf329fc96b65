package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/kioo-dev/kioo/pkg/cluster"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/hosts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// TestZoneIsRemembered starts with the API, without it, and as another node that took over the directory.
func TestZoneIsRemembered(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir, cfg.Kubernetes.NodeName = filepath.Join(t.TempDir(), "data"), "n1"
	d := &Daemon{cfg: cfg, log: logr.Discard()}
	knows := func(nodes ...runtime.Object) cluster.Client {
		return cluster.Client{Nodes: fake.NewClientset(nodes...).CoreV1().Nodes()}
	}
	if got := d.zone(knows()); got != "" {
		t.Errorf("of a node that nobody knows: %q", got)
	}
	labels := map[string]string{corev1.LabelTopologyZone: "a"}
	if got := d.zone(knows(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels}})); got != "a" {
		t.Errorf("of a node in a zone: %q", got)
	}
	if got := d.zone(knows()); got != "a" {
		t.Errorf("without an answer: %q", got)
	}
	cfg.Kubernetes.NodeName = "n2"
	if got := d.zone(knows()); got != "" {
		t.Errorf("as another node: %q", got)
	}
}

func TestPurge(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{zoneFile, accessFile, accessFile + ".new", eventsFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Purge(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left is %v, %v", left, err)
	}
}

func TestConditions(t *testing.T) {
	got := conditionsOf([]hosts.Finding{
		{ID: "config-path-missing", Severity: hosts.Problem, What: "It is not set.", Why: "No file is read.", Mend: "Set it."},
		{ID: "content-unreadable", Severity: hosts.Warning, What: "slow"},
		{ID: "layers-discarded", Severity: hosts.Note, What: "discard = true", Why: "They go."},
	})
	want := []cluster.Condition{
		{Reason: "ContainerdNotConfigured", Note: "It is not set. No file is read. Set it. [config-path-missing]"},
		{Reason: "LayersDiscarded", Note: "discard = true. They go.  [layers-discarded]", Harmless: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conditionsOf() differs (-want +got):\n%s", diff)
	}
}

// TestOutsideOfACluster has the API wanted by a mirror that is in no cluster: it starts without.
func TestOutsideOfACluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	cfg := config.Default()
	cfg.DataDir, cfg.Kubernetes.NodeName, cfg.Kubernetes.Service = t.TempDir(), "n1", "ns/kioo"
	d := &Daemon{cfg: cfg, log: logr.Discard()}
	if k, err := d.openKubernetes("test"); k != nil || err != nil {
		t.Errorf("openKubernetes() = %v, %v", k, err)
	}
}

// Package e2e_test installs Kioo by its Helm chart into a real cluster, kind's, and looks at it from where its users
// are: through pods, the container runtime, and an upstream registry outside of the cluster that counts what it sends.
//
// One cluster serves the whole suite, whose parts build on each other and so run in order.
package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/process"
)

const (
	root        = "../.."
	chart       = root + "/charts/kioo"
	namespace   = "kioo-system"
	imageName   = "kioo.test/kioo"
	imageTag    = "e2e"
	taint       = "kioo.dev/not-ready"
	helmVersion = "v3.19.4"
	kindVersion = "v0.33.0"

	// The newest Kubernetes that the chart is rendered for without a cluster.
	kubeVersion = "1.34.0"
)

// suite is what all parts share.
type suite struct {
	dir        string // For what is built and written; gone with the test.
	helm, kind string
	cluster    string
	nodes      []string // The control plane first.
	kubeconfig string
	upstream   *upstream // Everybody's.
	private    *upstream // That of tenants, who need credentials.
	images     *images
}

func TestE2E(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a cluster")
	}
	s := &suite{dir: t.TempDir(), cluster: "kioo-e2e-" + strconv.Itoa(os.Getpid())}
	s.tools(t)
	t.Run("chart", s.testChart)
	s.start(t)
	t.Cleanup(func() {
		if t.Failed() {
			s.collect(t)
		}
	})
	parts := []struct {
		name string
		run  func(*testing.T)
	}{
		{"dry run", s.testDryRun},
		{"install", s.testInstall},
		{"all at once", s.testTogether},
		{"upstream is down", s.testUpstreamDown},
		{"private images", s.testPrivate},
		{"strangers", s.testStrangers},
		{"check", s.testCheck},
		{"events", s.testEvents},
		{"upgrade", s.testUpgrade},
		{"kioo dies", s.testDies},
		{"new node", s.testNewNode},
		{"uninstall", s.testUninstall},
	}
	for _, p := range parts {
		if !t.Run(p.name, p.run) && p.name == "install" {
			break // There is nothing to look at.
		}
	}
}

// tools finds or builds the programs that the suite runs.
func (s *suite) tools(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	var err error
	if s.helm, err = process.Install(ctx, "helm.sh/helm/v3/cmd/helm", helmVersion); err != nil {
		t.Fatal(err)
	}
	if s.kind, err = exec.LookPath("kind"); err != nil {
		if s.kind, err = process.Install(ctx, "sigs.k8s.io/kind", kindVersion); err != nil {
			t.Fatal(err)
		}
	}
}

// start makes the cluster, with the image on each node and an upstream registry beside it.
func (s *suite) start(t *testing.T) {
	t.Helper()
	had := strings.Contains(s.try(t, "docker", "network", "ls", "--format", "{{.Name}}."), "kind.")
	s.kubeconfig = filepath.Join(s.dir, "kubeconfig")
	config := filepath.Join(s.dir, "kind.yaml")
	text := "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: control-plane}, {role: worker}, {role: worker}]\n" +
		"featureGates: {KubeletEnsureSecretPulledImages: true}\n" // The kubelet's own check of who may use what a node has.
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"create", "cluster", "--name", s.cluster, "--config", config, "--kubeconfig", s.kubeconfig, "--wait", "3m"}
	if image := os.Getenv("KIND_NODE_IMAGE"); image != "" {
		args = append(args, "--image", image)
	}
	t.Cleanup(func() {
		s.after(t, s.kind, "delete", "cluster", "--name", s.cluster, "--kubeconfig", s.kubeconfig)
		if !had {
			s.after(t, "docker", "network", "rm", "kind")
		}
	})
	built := make(chan error, 1)
	archive := filepath.Join(s.dir, "kioo.tar")
	go func() { built <- buildImage(t.Context(), s.dir, archive) }()
	s.must(t, s.kind, args...)
	s.nodes = []string{s.cluster + "-control-plane", s.cluster + "-worker", s.cluster + "-worker2"}
	if err := <-built; err != nil {
		t.Fatal(err)
	}
	s.must(t, s.kind, "load", "image-archive", archive, "--name", s.cluster)
	s.startUpstreams(t)
	s.kubectl(t, "taint", "node", s.nodes[0], "node-role.kubernetes.io/control-plane-")
	s.kubectl(t, "create", "namespace", namespace)
	s.kubectl(t, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
}

// buildImage makes the image as make image does, for this machine's architecture alone.
func buildImage(ctx context.Context, dir, archive string) error {
	binary := filepath.Join(dir, "kioo")
	for _, args := range [][]string{
		{"build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w -X main.version=" + imageTag, "-o", binary, "./cmd/kioo"},
		{"run", "./hack/image", "-output", archive, "-name", imageName + ":" + imageTag, "linux/" + runtime.GOARCH + "=" + binary},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

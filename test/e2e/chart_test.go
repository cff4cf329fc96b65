package e2e_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// presets are all that the chart has.
var presets = []string{"kubeadm", "kind", "eks-al2023", "eks-bottlerocket", "gke", "aks", "k3s", "rke2", "talos"}

// testChart looks at what needs no cluster.
func (s *suite) testChart(t *testing.T) {
	s.must(t, s.helm, "lint", "--strict", chart, "--kube-version", kubeVersion)
	t.Run("schema", s.testSchema)
	t.Run("deploy", s.testDeploy)
}

// testSchema shows what is refused, and with which words.
func (s *suite) testSchema(t *testing.T) {
	for set, want := range map[string]string{
		"preset=eks":              "at '/preset': value must be one of 'kubeadm', 'kind', 'eks-al2023'",
		"ports.mirror=http":       "at '/ports/mirror': got string, want integer",
		"ports.peers=70000":       "at '/ports/peers': maximum: got 70,000, want 65,535",
		"image.tga=v1":            "additional properties 'tga' not allowed",
		"containerd.socket=run/c": "at '/containerd/socket'",
		"clusterKey.names={}":     "at '/clusterKey/names/0'",
		"dataDir=/":               "at '/dataDir'",
		"maxUnavailable=0":        "at '/maxUnavailable'",
		"cleanup.timeout=5":       "at '/cleanup/timeout'",
		"kubernetes.events=maybe": "at '/kubernetes/events': got string, want boolean",
	} {
		out, err := s.command(t.Context(), "", s.helm, "template", "kioo", chart, "--kube-version", kubeVersion, "--set", set)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("--set %s: %v, expected a message with %q:\n%.600s", set, err, want, out)
		}
	}
}

// testDeploy holds the plain manifests to the chart.
func (s *suite) testDeploy(t *testing.T) {
	dir := t.TempDir()
	cmd := filepath.Join(root, "hack/deploy.sh")
	s.must(t, cmd, s.helm, dir)
	for _, name := range []string{"kioo.yaml", "cleanup.yaml"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, "deploy", name))
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("deploy/%s is not what the chart gives: run make chart (%v)", name, err)
		}
	}
}

// testDryRun has the API server look at what each preset gives, and at the plain manifests.
func (s *suite) testDryRun(t *testing.T) {
	s.kubectl(t, "create", "namespace", namespace)
	s.kubectl(t, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
	dryRun := func(what, manifests string) {
		args := s.kubectlArgs("apply", "--dry-run=server", "--validate=strict", "-f", "-")
		if out, err := s.command(t.Context(), manifests, "docker", args...); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	for _, p := range presets {
		dryRun(p, s.must(t, s.helm, "template", "kioo", chart, "--namespace", namespace, "--kube-version", kubeVersion,
			"--set", "preset="+p, "--set", "kubernetes.startupTaint="+taint, "--set", "networkPolicy.enabled=true"))
	}
	for _, file := range []string{"kioo.yaml", "cleanup.yaml"} {
		data, err := os.ReadFile(filepath.Join(root, "deploy", file))
		if err != nil {
			t.Fatal(err)
		}
		dryRun(file, string(data))
	}
}

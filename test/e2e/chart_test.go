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
	t.Run("documentation", testDocumentation)
}

// testDocumentation looks whether the chart's page has each value with its comment; make chart writes it.
func testDocumentation(t *testing.T) {
	values, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(chart, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var path, comment []string
	n := 0
	for _, line := range strings.Split(string(values), "\n") {
		text := strings.TrimLeft(line, " ")
		depth := (len(line) - len(text)) / 2
		if said, ok := strings.CutPrefix(text, "# "); ok {
			comment = append(comment, strings.TrimPrefix(said, "-- "))
			continue
		}
		key, _, ok := strings.Cut(text, ":")
		if ok && len(comment) > 0 {
			path = append(path[:depth:depth], key)
			row := "| " + strings.Join(path, ".") + " |"
			if i := strings.Index(string(page), row); i < 0 || !strings.Contains(strings.SplitN(string(page)[i:], "\n", 2)[0], strings.Join(comment, " ")) {
				t.Errorf("README.md does not say of %s what values.yaml does: run make chart", strings.Join(path, "."))
			}
			n++
		} else if ok && depth <= len(path) && !strings.HasPrefix(text, "-") {
			path = append(path[:depth:depth], key)
		}
		comment = nil
	}
	if n < 40 {
		t.Errorf("only %d values have a comment", n)
	}
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
	dryRun := func(what, manifests string) {
		args := s.kubectlArgs("apply", "--dry-run=server", "--validate=strict", "-f", "-")
		if out, err := s.command(t.Context(), manifests, "docker", args...); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	for _, p := range presets {
		dryRun(p, s.must(t, s.helm, "template", "kioo", chart, "--namespace", namespace, "--kube-version", kubeVersion,
			"--set", "preset="+p, "--set", "clusterKey.generate=always", "--set", "kubernetes.startupTaint="+taint, "--set", "networkPolicy.enabled=true"))
	}
	for _, file := range []string{"kioo.yaml", "cleanup.yaml"} {
		data, err := os.ReadFile(filepath.Join(root, "deploy", file))
		if err != nil {
			t.Fatal(err)
		}
		dryRun(file, string(data))
	}
}

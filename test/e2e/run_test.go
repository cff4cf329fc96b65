package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commandTime bounds one command; those that wait for something have shorter bounds of their own.
const commandTime = 6 * time.Minute

// command runs a program and gives all that it prints.
func (s *suite) command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs a program that has to succeed.
func (s *suite) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := s.command(t.Context(), "", name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a program whose failure says enough by what it prints.
func (s *suite) try(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := s.command(t.Context(), "", name, args...)
	if err != nil {
		out += "\n" + err.Error()
	}
	return out
}

// after runs a program when the test's own context has ended.
func (s *suite) after(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := s.command(context.Background(), "", name, args...); err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}

// kubectlArgs make the cluster's own kubectl do something.
func (s *suite) kubectlArgs(args ...string) []string {
	return append([]string{"exec", "-i", s.nodes[0], "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"}, args...)
}

func (s *suite) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return s.must(t, "docker", s.kubectlArgs(args...)...)
}

// apply creates what is described in JSON.
func (s *suite) apply(t *testing.T, objects ...any) {
	t.Helper()
	var b strings.Builder
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(data)
		b.WriteString("\n")
	}
	if out, err := s.command(t.Context(), b.String(), "docker", s.kubectlArgs("apply", "-f", "-")...); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// get reads objects of the API into what fits their JSON.
func (s *suite) get(t *testing.T, into any, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", s.kubectlArgs(append([]string{"get", "-o", "json"}, args...)...)...).Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("kubectl get %s: %v", strings.Join(args, " "), err)
	}
}

// node runs a shell script on a node.
func (s *suite) node(t *testing.T, node, script string) string {
	t.Helper()
	out, err := s.command(t.Context(), "", "docker", "exec", node, "bash", "-euo", "pipefail", "-c", script)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", node, script, err, out)
	}
	return out
}

// eventually waits for something that takes its time.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// values are those of each install and upgrade.
func (s *suite) values(more ...string) []string {
	args := []string{
		"--namespace", namespace, "--wait", "--timeout", "3m",
		"--set", "preset=kind", "--set", "image.repository=" + imageName, "--set", "image.tag=" + imageTag,
		"--set", "maxUnavailable=1", "--set", "kubernetes.startupTaint=" + taint,
		"--set-json", "config=" + s.config(),
	}
	for _, m := range more {
		args = append(args, "--set", m)
	}
	return args
}

// config is what the mirrors need to know of the two registries: that they have no TLS.
func (s *suite) config() string {
	var rules []string
	for _, u := range []*upstream{s.upstream, s.private} {
		rules = append(rules, fmt.Sprintf(`{"match":%q,"endpoints":[{"url":%q}]}`, u.host, "http://"+u.host))
	}
	return `{"registries":[` + strings.Join(rules, ",") + `]}`
}

// mirrorPod gives the name of a node's mirror.
func (s *suite) mirrorPod(t *testing.T, node string) string {
	t.Helper()
	return strings.TrimSpace(s.kubectl(t, "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/component=mirror",
		"--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[*].metadata.name}"))
}

// collect leaves what is needed to understand a failure in a directory that outlives the test.
func (s *suite) collect(t *testing.T) {
	dir := os.Getenv("KIOO_E2E_LOGS")
	if dir == "" {
		dir = "logs"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Log(err)
		return
	}
	write := func(name, command string, args ...string) {
		out, err := s.command(context.Background(), "", command, args...)
		if err != nil {
			out += "\n" + err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(out), 0o644); err != nil {
			t.Log(err)
		}
	}
	write("events.txt", "docker", s.kubectlArgs("get", "events", "-A", "--sort-by=.lastTimestamp")...)
	write("pods.txt", "docker", s.kubectlArgs("get", "pods", "-A", "-o", "wide")...)
	write("pods.yaml", "docker", s.kubectlArgs("get", "pods", "-A", "-o", "yaml")...)
	for _, n := range s.nodes {
		write(n+"-containerd.log", "docker", "exec", n, "journalctl", "--no-pager", "-u", "containerd")
		write(n+"-kubelet.log", "docker", "exec", n, "journalctl", "--no-pager", "-u", "kubelet")
		write(n+"-certs.d.txt", "docker", "exec", n, "bash", "-c", "cd /etc/containerd/certs.d && find . -ls && head -n 50 */hosts.toml")
		// Those of pods that are gone as well.
		write(n+"-kioo.log", "docker", "exec", n, "bash", "-c", "tail -n +1 /var/log/pods/"+namespace+"_*/*/*.log")
	}
	where, _ := filepath.Abs(dir)
	t.Logf("what the mirrors, containerd and the cluster said is in %s", where)
}

package e2e_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// misconfigurations are what an operator may get wrong on a node, each with what kioo check calls it. The scripts
// change files below /etc/containerd, which are put back afterwards; containerd is not restarted.
var misconfigurations = []struct{ name, script, want string }{
	{"another config_path", `printf '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/other"\n' >>config.toml`, "config-path-elsewhere"},
	{"two directories", `sed -i s/discard_unpacked_layers.*// config.toml
		printf '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"\n' >>config.toml`,
		"config-path-doubled"},
	{"no config_path", `sed -i s/discard_unpacked_layers.*// config.toml`, "config-path-missing"},
	{"old mirrors beside it", `printf '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/containerd/certs.d"\n
		[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n  endpoint = ["https://m.example.com"]\n' >>config.toml`,
		"mirrors-conflict"},
	{"no CRI", `sed -i '1i disabled_plugins = ["io.containerd.grpc.v1.cri"]' config.toml`, "cri-disabled"},
	{"no TOML", `echo '= nonsense' >>config.toml`, "config-unreadable"},
	{"discards layers", `:`, "layers-discarded"},
	{"broken hosts.toml", `printf '= nonsense' >certs.d/empty/hosts.toml`, "hosts-invalid"},
	{"missing certificate", `printf 'ca = "lacking.pem"\n[host."https://a"]\n' >certs.d/empty/hosts.toml`, "certificate-missing"},
}

// findings gives the kinds of what kioo check finds on a node.
func (s *suite) findings(t *testing.T, pod string, more ...string) []string {
	t.Helper()
	args := append([]string{"-n", namespace, "exec", pod, "-c", "kioo", "--", "/kioo", "check", "--config=/etc/kioo/kioo.yaml", "-o", "json"}, more...)
	out, _ := s.command(t.Context(), "", "docker", s.kubectlArgs(args...)...) // Its status says whether there are problems.
	var found struct {
		Findings []struct{ ID, What, Why, Mend string }
	}
	begin, end := strings.IndexByte(out, '{'), strings.LastIndexByte(out, '}')
	if err := json.Unmarshal([]byte(out[max(0, begin):end+1]), &found); err != nil {
		t.Fatalf("kioo check: %v\n%s", err, out)
	}
	var ids []string
	for _, f := range found.Findings {
		if f.What == "" || f.Why == "" {
			t.Errorf("finding %s does not say what is wrong", f.ID)
		}
		ids = append(ids, f.ID)
	}
	return ids
}

// testCheck has kioo check look at a node with each misconfiguration.
func (s *suite) testCheck(t *testing.T) {
	node := s.nodes[2]
	pod := s.mirrorPod(t, node)
	s.node(t, node, "cp -a /etc/containerd/config.toml /root/config.toml")
	mend := "cp -a /root/config.toml /etc/containerd/config.toml; rm -f /etc/containerd/certs.d/empty/hosts.toml"
	defer s.node(t, node, mend)
	for _, m := range misconfigurations {
		s.node(t, node, "cd /etc/containerd; "+m.script)
		if found := s.findings(t, pod, "--pull=false"); !slices.Contains(found, m.want) {
			t.Errorf("%s: kioo check finds %v, expected %s", m.name, found, m.want)
		}
		s.node(t, node, mend)
	}
	if found := s.findings(t, pod, "--pull=false", "--mirror=http://127.0.0.1:28599"); !slices.Contains(found, "mirror-silent") {
		t.Errorf("without a mirror it finds %v", found)
	}
	eventually(t, 30*time.Second, "nothing stands in the way of a mended node", func() bool {
		found := s.findings(t, pod)
		return !slices.ContainsFunc(found, func(id string) bool {
			return id != "layers-discarded" && id != "config-path-missing" && id != "certificate-missing"
		})
	})
}

// testEvents looks for what mirrors tell by events.
func (s *suite) testEvents(t *testing.T) {
	node := s.nodes[2]
	about := func(reason string) bool {
		out := s.kubectl(t, "get", "events", "-n", "default", "--field-selector", "reason="+reason+",involvedObject.name="+node, "-o", "name")
		return strings.Contains(out, "event/kioo.")
	}
	eventually(t, 90*time.Second, "an event says that layers are discarded", func() bool { return about("LayersDiscarded") })
	s.node(t, node, `printf '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/other"\n' >>/etc/containerd/config.toml`)
	defer s.node(t, node, "cp -a /root/config.toml /etc/containerd/config.toml")
	s.kubectl(t, "-n", namespace, "delete", "pod", s.mirrorPod(t, node))
	eventually(t, 90*time.Second, "an event says that containerd does not use the mirror", func() bool { return about("ContainerdNotConfigured") })
}

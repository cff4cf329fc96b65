package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// nodeIP gives a node's address.
func (s *suite) nodeIP(t *testing.T, node string) string {
	t.Helper()
	return s.kubectl(t, "get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
}

// testStrangers looks from pods of the cluster at what they can reach.
func (s *suite) testStrangers(t *testing.T) {
	img := s.images.push(t, "stranger", mib)
	blob := "/v2/e2e/stranger/blobs/" + img.layers[0].String() + "?ns=" + s.upstream.host
	var targets, addresses []string
	want := map[string]string{}
	for _, n := range s.nodes {
		ip := s.nodeIP(t, n)
		addresses = append(addresses, `"`+ip+`"`)
		want[ip+":28500"], want[ip+":28503"] = "closed", "closed"
		want["https://"+ip+":28501"+blob] = "refused" // It has no certificate of the cluster key.
		want["http://"+ip+":28501"+blob] = "refused"  // Before the handshake nobody is answered.
	}
	for target := range want {
		targets = append(targets, target)
	}
	s.apply(t, s.pod("reach", img.tag, s.nodes[1], targets...))
	s.runs(t, "reach", time.Minute)
	s.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reach", "--timeout=60s")
	out := s.kubectl(t, "logs", "reach")
	for target, result := range want {
		if !strings.Contains(out, target+": "+result+"\n") {
			t.Errorf("from a pod, %s is not %s:\n%s", target, result, out)
		}
	}
	// One with a key of its own, who knows where all members are: the same libp2p, and still nobody talks to it.
	rejected := s.metrics(t, "kioo_discovery_members")
	config := fmt.Sprintf(`apiVersion: kioo.dev/v1alpha1
kind: MirrorConfiguration
dataDir: /tmp/kioo
metrics: {listen: "0.0.0.0:28504"}
peers: {keyFiles: [/etc/kioo/key]}
discovery: {bootstrap: {addresses: [%s]}}
`, strings.Join(addresses, ", "))
	key := strings.TrimSpace(s.kubectl(t, "-n", namespace, "exec", s.mirrorPod(t, s.nodes[0]), "-c", "kioo", "--", "/kioo", "key"))
	pod := object{
		"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "stranger"},
		"spec": object{
			"terminationGracePeriodSeconds": 1,
			"containers": []object{{
				"name": "kioo", "image": imageName + ":" + imageTag, "imagePullPolicy": "Never",
				"args": []string{"serve", "--config=/etc/kioo/kioo.yaml", "--peer-listen=$(IP)", "--discovery-listen=$(IP)"},
				"env":  []object{{"name": "IP", "valueFrom": object{"fieldRef": object{"fieldPath": "status.podIP"}}}},
				"volumeMounts": []object{
					{"name": "config", "mountPath": "/etc/kioo"}, {"name": "data", "mountPath": "/tmp"},
				},
			}},
			"volumes": []object{{"name": "config", "configMap": object{"name": "stranger"}}, {"name": "data", "emptyDir": object{}}},
		},
	}
	s.apply(t, object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "stranger"}, "data": object{"kioo.yaml": config, "key": key},
	}, pod)
	s.runs(t, "stranger", time.Minute)
	time.Sleep(8 * time.Second) // It looks for members each second at first.
	ip := s.kubectl(t, "get", "pod", "stranger", "-o", "jsonpath={.status.podIP}")
	metrics := s.node(t, s.nodes[0], "curl -sf http://"+ip+":28504/metrics")
	if !strings.Contains(metrics, `kioo_discovery_members{state="live"} 0`) || strings.Contains(metrics, `kioo_discovery_bootstrap_rounds_total{result="ok"} 0`) {
		t.Errorf("the stranger knows members, or did not look for any:\n%s", grep(metrics, "kioo_discovery"))
	}
	if now := s.metrics(t, "kioo_discovery_members"); now != rejected {
		t.Errorf("members knew %.0f of each other, and know %.0f with the stranger", rejected, now)
	}
	s.remove(t, "stranger", "reach")
	s.kubectl(t, "delete", "configmap", "stranger")
}

func grep(text, part string) string {
	var found []string
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, part) && !strings.HasPrefix(line, "#") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "\n")
}

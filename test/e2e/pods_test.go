package e2e_test

import (
	"fmt"
	"testing"
	"time"
)

type object = map[string]any

// podSpec runs the agent of an image; on which node, or on any that the scheduler finds if it is empty.
func (s *suite) podSpec(image, node string, args ...string) object {
	spec := object{
		"terminationGracePeriodSeconds": 1,
		"automountServiceAccountToken":  false,
		"containers":                    []object{{"name": "agent", "image": image, "imagePullPolicy": "Always", "args": args}},
	}
	if len(args) > 0 {
		spec["restartPolicy"] = "Never"
	}
	if node != "" {
		spec["nodeSelector"] = object{"kubernetes.io/hostname": node}
	}
	return spec
}

func (s *suite) pod(name, image, node string, args ...string) object {
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name}, "spec": s.podSpec(image, node, args...)}
}

// runs waits until a pod runs, or ended well.
func (s *suite) runs(t *testing.T, name string, within time.Duration) {
	t.Helper()
	s.podRuns(t, "default", name, within)
}

func (s *suite) podRuns(t *testing.T, namespace, name string, within time.Duration) {
	t.Helper()
	var phase string
	deadline := time.Now().Add(within)
	for {
		phase = s.kubectl(t, "-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state}")
		if len(phase) > 7 && (phase[:7] == "Running" || phase[:7] == "Succeed") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("pod %s does not run within %s: %s\n%s", name, within, phase, s.try(t, "docker", s.kubectlArgs("-n", namespace, "describe", "pod", name)...))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// remove deletes pods at once.
func (s *suite) remove(t *testing.T, pods ...string) {
	t.Helper()
	s.kubectl(t, append([]string{"delete", "pod", "--ignore-not-found", "--grace-period=1"}, pods...)...)
}

// onEach makes a Deployment with one pod on every node.
func (s *suite) onEach(name, image string) object {
	labels := object{"app": name}
	spec := s.podSpec(image, "")
	spec["affinity"] = object{"podAntiAffinity": object{"requiredDuringSchedulingIgnoredDuringExecution": []object{
		{"labelSelector": object{"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"},
	}}}
	return object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": name},
		"spec": object{
			"replicas": len(s.nodes), "selector": object{"matchLabels": labels},
			"template": object{"metadata": object{"labels": labels}, "spec": spec},
		},
	}
}

// metrics sums up a metric of all mirrors, over all labels.
func (s *suite) metrics(t *testing.T, name string) float64 {
	t.Helper()
	var sum float64
	for _, n := range s.nodes {
		sum += s.metric(t, n, name)
	}
	return sum
}

func (s *suite) metric(t *testing.T, node, name string) float64 {
	t.Helper()
	out := s.node(t, node, fmt.Sprintf(`curl -sf --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:28504/metrics |
		awk '/^%s[{ ]/ {sum += $NF} END {print sum+0}'`, name))
	var sum float64
	if _, err := fmt.Sscan(out, &sum); err != nil {
		t.Fatalf("metric %s of %s is %q", name, node, out)
	}
	return sum
}

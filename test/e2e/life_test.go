package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// churn creates pods of new images, on one node after the other, until it is stopped.
type churn struct {
	s    *suite
	stop context.CancelFunc
	done sync.WaitGroup
	pods []string
	err  error
}

func (s *suite) startChurn(t *testing.T, name string) *churn {
	ctx, stop := context.WithCancel(t.Context())
	c := &churn{s: s, stop: stop}
	c.done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			pod := fmt.Sprintf("%s-%d", name, i)
			img, err := s.images.make(t.Context(), s.upstream, "e2e/"+pod, mib)
			if err == nil {
				var out string
				out, err = s.command(t.Context(), "", "docker", s.kubectlArgs("run", pod, "--image="+img.tag, "--restart=Never",
					"--overrides", fmt.Sprintf(`{"spec":{"nodeSelector":{"kubernetes.io/hostname":%q}}}`, s.nodes[i%len(s.nodes)]), "--", "end")...)
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
			}
			if err != nil {
				c.err = err
				return
			}
			c.pods = append(c.pods, pod)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return c
}

// end waits for all pods, none of which may have failed to pull.
func (c *churn) end(t *testing.T) {
	t.Helper()
	c.stop()
	c.done.Wait()
	if c.err != nil {
		t.Fatal(c.err)
	}
	if len(c.pods) < 5 {
		t.Fatalf("only %d pods were created", len(c.pods))
	}
	for _, p := range c.pods {
		c.s.runs(t, p, time.Minute)
	}
	for _, p := range c.pods {
		if out := c.s.kubectl(t, "get", "events", "--field-selector", "reason=Failed,involvedObject.name="+p, "-o", "jsonpath={.items[*].message}"); out != "" {
			t.Errorf("pod %s: %s", p, out)
		}
	}
	t.Logf("%d pods of new images were created meanwhile", len(c.pods))
	c.s.remove(t, c.pods...)
}

// testUpgrade exchanges the cluster key while pods keep being created.
func (s *suite) testUpgrade(t *testing.T) {
	secret := func() map[string]string {
		var got struct{ Data map[string]string }
		s.get(t, &got, "-n", namespace, "secret", "kioo-key")
		return got.Data
	}
	before := secret()["initial"]
	c := s.startChurn(t, "upgrade")
	s.must(t, s.helm, append([]string{"upgrade", "kioo", chart}, s.values("clusterKey.names={next,initial}")...)...)
	both := secret()
	if both["initial"] != before || both["next"] == "" || both["next"] == before {
		t.Error("the upgrade did not keep the old key beside a new one")
	}
	s.must(t, s.helm, append([]string{"upgrade", "kioo", chart}, s.values("clusterKey.names={next}")...)...)
	c.end(t)
	if alone := secret(); alone["next"] != both["next"] || len(alone) != 1 {
		t.Error("the second upgrade did not keep the new key alone")
	}
	eventually(t, time.Minute, "all members with the new key", func() bool { return s.members(t) })
}

// testDies takes Kioo away without an uninstall: hosts.toml stays behind, and pulls go straight to upstream.
func (s *suite) testDies(t *testing.T) {
	s.kubectl(t, "-n", namespace, "delete", "daemonset", "kioo", "--wait")
	s.kubectl(t, "-n", namespace, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=mirror", "--timeout=60s")
	if left := s.node(t, s.nodes[1], "cat /etc/containerd/certs.d/_default/hosts.toml"); !strings.Contains(left, "127.0.0.1:28500") {
		t.Fatalf("hosts.toml does not name the mirror any more: %s", left)
	}
	img := s.images.push(t, "dead", mib)
	s.upstream.registry.Forget()
	for i, n := range s.nodes {
		s.apply(t, s.pod(fmt.Sprintf("dead-%d", i), img.tag, n))
	}
	for i := range s.nodes {
		s.runs(t, fmt.Sprintf("dead-%d", i), time.Minute)
	}
	direct := 0
	for _, r := range s.upstream.registry.BlobRequests(img.layers[0].String()) {
		if strings.HasPrefix(r.Header.Get("User-Agent"), "containerd/") {
			direct++
		}
	}
	if direct != len(s.nodes) {
		t.Errorf("%d of %d nodes pulled straight from upstream", direct, len(s.nodes))
	}
	s.remove(t, "dead-0", "dead-1", "dead-2")
	s.must(t, s.helm, append([]string{"upgrade", "kioo", chart}, s.values("clusterKey.names={next}")...)...)
}

// testNewNode wipes what a node has of Kioo and of containerd's images, and lets it come back as a new one that is
// registered with the start-up taint. Kioo is kept from starting for a while: pods wait.
func (s *suite) testNewNode(t *testing.T) {
	node := s.nodes[2]
	img := s.images.push(t, "fresh", mib)
	s.kubectl(t, "taint", "node", node, taint+"=:NoSchedule", "--overwrite")
	// A file where its directory should be keeps the mirror's pod from starting.
	s.node(t, node, `mv /var/lib/kioo /var/lib/kioo.gone && touch /var/lib/kioo`)
	s.kubectl(t, "-n", namespace, "delete", "pod", s.mirrorPod(t, node))
	s.node(t, node, `rm -rf /var/lib/kioo.gone
		ctr -n k8s.io images ls -q | grep -F '`+s.upstream.host+`' | xargs -r ctr -n k8s.io images rm >/dev/null
		systemctl restart containerd`)
	s.apply(t, s.pod("fresh", img.tag, node))
	time.Sleep(10 * time.Second)
	var pod struct {
		Spec   struct{ NodeName string }
		Status struct{ Phase string }
	}
	if s.get(t, &pod, "pod", "fresh"); pod.Spec.NodeName != "" || pod.Status.Phase != "Pending" {
		t.Errorf("before the mirror answers, the pod is %s on %q", pod.Status.Phase, pod.Spec.NodeName)
	}
	s.upstream.registry.Forget()
	s.node(t, node, "rm /var/lib/kioo")
	s.runs(t, "fresh", 4*time.Minute) // The kubelet waits up to two minutes before it tries a mount again.
	for _, r := range s.upstream.registry.Requests() {
		if !strings.HasPrefix(r.Header.Get("User-Agent"), "kioo/") {
			t.Errorf("%s asked upstream for %s: the mirror did not answer yet", r.Header.Get("User-Agent"), r.URI)
		}
	}
	if left := s.kubectl(t, "get", "node", node, "-o", "jsonpath={.spec.taints}"); strings.Contains(left, taint) {
		t.Errorf("the node still has %s", left)
	}
	s.remove(t, "fresh")
	eventually(t, time.Minute, "the node is a member", func() bool { return s.members(t) })
}

// testUninstall looks whether the nodes are as they were, and whether the cluster is.
func (s *suite) testUninstall(t *testing.T) {
	s.must(t, s.helm, "uninstall", "kioo", "--namespace", namespace, "--wait", "--timeout", "3m")
	for _, n := range s.nodes {
		if diff := s.node(t, n, snapshot+" >/root/after; diff /root/before /root/after || true"); diff != "" {
			t.Errorf("%s is not as it was:\n%s", n, diff)
		}
		if left := s.node(t, n, "find /var/lib/kioo -mindepth 1"); left != "" {
			t.Errorf("%s keeps %s", n, left)
		}
	}
	left := s.kubectl(t, "-n", namespace, "get", "daemonset,job,configmap,secret,service,role,rolebinding", "-o", "name")
	left += s.kubectl(t, "get", "clusterrole,clusterrolebinding", "-o", "name")
	if strings.Contains(left, "kioo") {
		t.Errorf("the cluster keeps\n%s", grep(left, "kioo"))
	}
	img := s.images.push(t, "bare", mib)
	s.apply(t, s.pod("bare", img.tag, s.nodes[1]))
	s.runs(t, "bare", time.Minute)
}

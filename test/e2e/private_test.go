package e2e_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stranger is a pod that must not get tenant A's image.
type stranger struct {
	name, node, secret, policy string
	image                      string
}

// testPrivate: what tenant A pulled with a secret on one node is given to A's pods on other nodes, and to nobody else.
func (s *suite) testPrivate(t *testing.T) {
	first, second := s.nodes[1], s.nodes[2]
	img := s.tenants(t)
	s.apply(t, s.podOf(tenantA, "first", withSecret, "Always", img.tag, first))
	s.podRuns(t, tenantA, "first", time.Minute)
	if sent := s.sentBlobs(t); sent < img.size {
		t.Fatalf("upstream sent %d bytes of blobs, and the image has %d: the test shows nothing", sent, img.size)
	}
	eventually(t, 20*time.Second, "the first node has told the others what it holds", func() bool {
		return s.metric(t, first, "kioo_discovery_pending_keys") == 0
	})

	s.private.registry.Forget()
	before := s.metric(t, second, `kioo_flight_bytes_total.*source="peer".*`)
	s.apply(t, s.podOf(tenantA, "second", withSecret, "Always", img.tag, second))
	s.podRuns(t, tenantA, "second", time.Minute)
	if sent := s.sentBlobs(t); sent > 0 {
		t.Errorf("for the second node, upstream sent %d bytes of blobs", sent)
	}
	if got := s.metric(t, second, `kioo_flight_bytes_total.*source="peer".*`) - before; got < float64(img.size) {
		t.Errorf("the second node got %.0f bytes from the first, of an image of %d", got, img.size)
	}

	s.private.registry.Forget()
	s.refused(t, s.strangers(img))
	if sent := s.sentBlobs(t); sent > 0 {
		t.Errorf("for those who may not have it, upstream sent %d bytes of blobs", sent)
	}
	for _, n := range []string{first, second} {
		s.blobsRefused(t, n, img)
	}
	s.kubectl(t, "delete", "namespace", tenantA, tenantB, "--wait=false")
}

// tenants makes their namespaces and pull secrets, and the image of each; it returns tenant A's.
func (s *suite) tenants(t *testing.T) image {
	t.Helper()
	img, err := s.images.make(t.Context(), s.private, privateA, 4*mib, mib)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.images.make(t.Context(), s.private, privateB, mib); err != nil {
		t.Fatal(err)
	}
	s.apply(t, object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": tenantA}},
		object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": tenantB}})
	s.apply(t,
		s.pullSecret(tenantA, withSecret, tenantA, secretOfA),
		s.pullSecret(tenantB, withSecret, tenantB, secretOfB),
		s.pullSecret(tenantB, "wrong", tenantA, secretOfB))
	return img
}

func (s *suite) pullSecret(namespace, name, user, password string) object {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return object{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
		"metadata":   object{"namespace": namespace, "name": name},
		"stringData": object{".dockerconfigjson": fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, s.private.host, auth)},
	}
}

// podOf is a pod of a tenant, with one of its pull secrets or without any.
func (s *suite) podOf(tenant, name, secret, policy, image, node string) object {
	pod := s.pod(name, image, node)
	pod["metadata"] = object{"name": name, "namespace": tenant}
	spec := pod["spec"].(object)
	spec["containers"].([]object)[0]["imagePullPolicy"] = policy
	if secret != withoutAny {
		spec["imagePullSecrets"] = []object{{"name": secret}}
	}
	return pod
}

// strangers are tenant B's pods: on both nodes, by tag and by digest, without a secret, with one that is good for
// something else, and with one that is good for nothing. Those that would do with what the node has already meet the
// kubelet's own check, which pulls again.
func (s *suite) strangers(img image) []stranger {
	var all []stranger
	for i, node := range s.nodes[1:3] {
		for how, ref := range map[string]string{"tag": img.tag, "digest": img.digest} {
			for what, secret := range map[string]string{"none": withoutAny, "other": withSecret, "wrong": "wrong"} {
				all = append(all, stranger{fmt.Sprintf("%s-%s-%d", what, how, i), node, secret, "Always", ref})
			}
		}
		all = append(all, stranger{fmt.Sprintf("held-%d", i), node, withoutAny, "IfNotPresent", img.tag})
	}
	return all
}

// refused wants each of the pods to fail to pull, for want of credentials, and to fail again when it is tried again.
func (s *suite) refused(t *testing.T, pods []stranger) {
	t.Helper()
	var objects []any
	for _, p := range pods {
		objects = append(objects, s.podOf(tenantB, p.name, p.secret, p.policy, p.image, p.node))
	}
	s.apply(t, objects...)
	const times = 2 // The kubelet tries again after ten seconds.
	var failures map[string]*failure
	eventually(t, time.Minute, "each pod has failed to pull, and once more", func() bool {
		failures = s.failures(t, tenantB)
		for _, p := range pods {
			if f := failures[p.name]; f == nil || f.count < times {
				return false
			}
		}
		return true
	})
	var states struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase             string
				ContainerStatuses []struct {
					ContainerID string
					State       struct{ Waiting struct{ Reason string } }
				}
			}
		}
	}
	s.get(t, &states, "-n", tenantB, "pods")
	if len(states.Items) != len(pods) {
		t.Errorf("tenant B has %d pods, expected %d", len(states.Items), len(pods))
	}
	for _, p := range states.Items {
		for _, c := range p.Status.ContainerStatuses {
			if reason := c.State.Waiting.Reason; c.ContainerID != "" || reason != "ErrImagePull" && reason != "ImagePullBackOff" {
				t.Errorf("tenant B's pod %s: %s, %s, %s", p.Metadata.Name, p.Status.Phase, reason, c.ContainerID)
			}
		}
		if f := failures[p.Metadata.Name]; f != nil && !refusal(f.message) {
			t.Errorf("tenant B's pod %s failed for another reason: %s", p.Metadata.Name, f.message)
		}
	}
	t.Logf("%d pods were refused, such as with: %s", len(pods), failures[pods[0].name].message)
}

// refusal knows containerd's words for upstream's 401.
func refusal(message string) bool {
	return strings.Contains(message, "authorization failed") || strings.Contains(message, "failed to authorize") ||
		strings.Contains(message, "401 Unauthorized")
}

// failure is what the kubelet said of a pod's image, and how often.
type failure struct {
	count   int
	message string
}

// failures are those of a namespace's pods.
func (s *suite) failures(t *testing.T, tenant string) map[string]*failure {
	t.Helper()
	var events struct {
		Items []struct {
			Count          int
			Message        string
			InvolvedObject struct{ Name string }
		}
	}
	s.get(t, &events, "-n", tenant, "events", "--field-selector", "reason=Failed")
	found := map[string]*failure{}
	for _, e := range events.Items {
		if strings.HasPrefix(e.Message, "Failed to pull image") {
			if found[e.InvolvedObject.Name] == nil {
				found[e.InvolvedObject.Name] = &failure{message: e.Message}
			}
			found[e.InvolvedObject.Name].count += e.Count
		}
	}
	return found
}

// blobsRefused asks a node's mirror from that node's own network for single blobs: in the name of tenant A's repository
// with what others may have, and in the name of tenant B's with what B may have.
func (s *suite) blobsRefused(t *testing.T, node string, img image) {
	t.Helper()
	token := s.token(t, node, tenantB, secretOfB, privateB)
	for _, l := range img.layers {
		for what, ask := range map[string]struct{ repository, header string }{
			"nothing":             {privateA, ""},
			"a wrong password":    {privateA, "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(tenantA+":"+secretOfB))},
			"tenant B's token":    {privateA, "Authorization: Bearer " + token},
			"tenant B's own name": {privateB, "Authorization: Bearer " + token},
		} {
			out := s.node(t, node, fmt.Sprintf(`curl -s -o /dev/null -w '%%{http_code}' -H '%s' 'http://127.0.0.1:28500/v2/%s/blobs/%s?ns=%s'`,
				ask.header, ask.repository, l, s.private.host))
			if out != "401" && (out != "404" || ask.repository == privateA) {
				t.Errorf("%s: a layer of tenant A's image, with %s: %s", node, what, out)
			}
		}
	}
}

// token is what the token service gives a tenant.
func (s *suite) token(t *testing.T, node, user, password, repository string) string {
	t.Helper()
	out := s.node(t, node, fmt.Sprintf(`realm=$(curl -s -D- -o /dev/null http://%s/v2/ | sed -n 's/.*realm="\([^"]*\)".*/\1/p')
		curl -sf -u %s:%s "$realm?service=registry.example.com&scope=repository:%s:pull" | sed 's/.*"token":"\([^"]*\)".*/\1/'`,
		s.private.host, user, password, repository))
	if token := strings.TrimSpace(out); strings.Count(token, ".") == 2 {
		return token
	}
	t.Fatalf("the token service says %s", out)
	return ""
}

// sentBlobs is how much of blobs the private registry has sent. Nobody but the mirrors may have got any.
func (s *suite) sentBlobs(t *testing.T) int64 {
	t.Helper()
	var sent int64
	for _, r := range s.private.registry.BlobRequests("") {
		if r.Status != http.StatusOK && r.Status != http.StatusPartialContent {
			continue
		}
		sent += r.Sent
		if agent := r.Header.Get("User-Agent"); !strings.HasPrefix(agent, "kioo/") {
			t.Errorf("%s got %s from upstream itself", agent, r.URI)
		}
	}
	return sent
}

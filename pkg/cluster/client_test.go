package cluster

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	typed "k8s.io/client-go/kubernetes/typed/discovery/v1"
)

// of gives what Kubernetes' own fake has as a Client.
func of(c *fake.Clientset) Client {
	return Client{
		Nodes: c.CoreV1().Nodes(), Events: c.CoreV1().Events(metav1.NamespaceDefault),
		DaemonSets:     func(namespace string) DaemonSets { return c.AppsV1().DaemonSets(namespace) },
		EndpointSlices: func(namespace string) EndpointSlices { return listed{c.DiscoveryV1().EndpointSlices(namespace)} },
	}
}

// listed is the fake's slices, of which a watch does not begin with a list.
type listed struct{ typed.EndpointSliceInterface }

// IsWatchListSemanticsUnSupported is how informers ask for that.
func (listed) IsWatchListSemanticsUnSupported() bool { return true }

// TestClient has a server that answers in protobuf, as Kubernetes' does, and notes what it is asked.
func TestClient(t *testing.T) {
	answers := map[string]runtime.Object{
		"/api/v1/nodes/n1":                                       &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		"/api/v1/namespaces/default/events":                      &corev1.Event{Reason: "Created"},
		"/api/v1/namespaces/default/events/e1":                   &corev1.Event{Reason: "Patched"},
		"/apis/apps/v1/namespaces/ns/daemonsets/d":               &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{NumberReady: 3}},
		"/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices": &discoveryv1.EndpointSliceList{Items: []discoveryv1.EndpointSlice{*slice("a", "kioo", "discovery")}},
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent := r.Header.Get("Content-Type")
		if len(body) == 0 {
			sent = "nothing"
		}
		mu.Lock()
		asked = append(asked, fmt.Sprintf("%s %s %s, sends %s", r.Method, r.URL, r.UserAgent(), sent))
		mu.Unlock()
		if !strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) {
			t.Errorf("%s accepts %q", r.URL, r.Header.Get("Accept"))
		}
		object := answers[r.URL.Path]
		group := schema.GroupVersion{Version: "v1"}
		switch object.(type) {
		case *appsv1.DaemonSet:
			group = appsv1.SchemeGroupVersion
		case *discoveryv1.EndpointSliceList:
			group = discoveryv1.SchemeGroupVersion
		}
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		if err := scheme.Codecs.EncoderForVersion(info.Serializer, group).Encode(object, w); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
  clusters: [{name: c, cluster: {server: "%s"}}], users: [{name: u, user: {token: secret}}]}`, server.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(file, "kioo/test")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	node, err := c.Nodes.Get(ctx, "n1", metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || node.Name != "n1" {
		t.Errorf("node %v, %v", node, err)
	}
	if _, err := c.Nodes.Patch(ctx, "n1", types.JSONPatchType, []byte("[]"), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	if e, err := c.Events.Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e1"}}, metav1.CreateOptions{}); err != nil || e.Reason != "Created" {
		t.Errorf("event %v, %v", e, err)
	}
	if e, err := c.Events.Patch(ctx, "e1", types.MergePatchType, []byte("{}"), metav1.PatchOptions{}); err != nil || e.Reason != "Patched" {
		t.Errorf("event %v, %v", e, err)
	}
	if d, err := c.DaemonSets("ns").Get(ctx, "d", metav1.GetOptions{}); err != nil || d.Status.NumberReady != 3 {
		t.Errorf("DaemonSet %v, %v", d, err)
	}
	slices, err := c.EndpointSlices("ns").List(ctx, metav1.ListOptions{LabelSelector: "a=b"})
	if err != nil || len(slices.Items) != 1 || slices.Items[0].Name != "a" {
		t.Errorf("slices %v, %v", slices, err)
	}
	watched, err := c.EndpointSlices("ns").Watch(ctx, metav1.ListOptions{LabelSelector: "a=b"})
	if err != nil {
		t.Fatal(err)
	}
	watched.Stop()
	want := []string{
		"GET /api/v1/nodes/n1?resourceVersion=0 kioo/test, sends nothing",
		"PATCH /api/v1/nodes/n1 kioo/test, sends application/json-patch+json",
		"POST /api/v1/namespaces/default/events kioo/test, sends application/vnd.kubernetes.protobuf",
		"PATCH /api/v1/namespaces/default/events/e1 kioo/test, sends application/merge-patch+json",
		"GET /apis/apps/v1/namespaces/ns/daemonsets/d kioo/test, sends nothing",
		"GET /apis/discovery.k8s.io/v1/namespaces/ns/endpointslices?labelSelector=a%3Db kioo/test, sends nothing",
		"GET /apis/discovery.k8s.io/v1/namespaces/ns/endpointslices?labelSelector=a%3Db&watch=true kioo/test, sends nothing",
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
}

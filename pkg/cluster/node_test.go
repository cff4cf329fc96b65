package cluster

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"testing/synctest"
)

const key = "kioo.dev/not-ready"

func node(labels map[string]string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels, ResourceVersion: "7"}, Spec: corev1.NodeSpec{Taints: taints},
	}
}

func TestZone(t *testing.T) {
	tests := map[string]struct {
		labels map[string]string
		want   string
	}{
		"zone":    {map[string]string{corev1.LabelTopologyZone: "eu-1a", corev1.LabelTopologyRegion: "eu-1"}, "eu-1a"},
		"region":  {map[string]string{corev1.LabelTopologyRegion: "eu-1"}, "eu-1"},
		"neither": {nil, ""},
	}
	for name, tt := range tests {
		if got, err := Zone(t.Context(), of(fake.NewClientset(node(tt.labels))), "n1"); err != nil || got != tt.want {
			t.Errorf("%s: Zone() = %q, %v, want %q", name, got, err, tt.want)
		}
	}
	if _, err := Zone(t.Context(), of(fake.NewClientset()), "n1"); !apierrors.IsNotFound(err) {
		t.Errorf("of a node that is not there: %v", err)
	}
}

func taints(t *testing.T, client *fake.Clientset) []corev1.Taint {
	t.Helper()
	n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n.Spec.Taints
}

// TestRemoveTaint has the mirror answer late, somebody else change the node meanwhile, and the taint come back.
func TestRemoveTaint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule}
		ours := []corev1.Taint{{Key: key, Effect: corev1.TaintEffectNoSchedule}, {Key: key, Effect: corev1.TaintEffectNoExecute}}
		client := fake.NewClientset(node(nil, append(ours, other)...))
		var conflicts atomic.Int64
		client.PrependReactor("patch", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
			if conflicts.Add(1) == 1 {
				return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, "n1", errors.New("test failed"))
			}
			return false, nil, nil
		})
		var answers atomic.Bool
		ready := func(context.Context) error {
			if answers.Load() {
				return nil
			}
			return errors.New("not yet")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			RemoveTaint(ctx, TaintConfig{Client: of(client), Node: "n1", Key: key, Ready: ready, Log: logr.Discard()})
		})
		time.Sleep(time.Hour)
		if diff := cmp.Diff(append(ours, other), taints(t, client)); diff != "" {
			t.Fatalf("before the mirror answers (-want +got):\n%s", diff)
		}
		answers.Store(true)
		time.Sleep(5 * time.Second)
		if diff := cmp.Diff([]corev1.Taint{other}, taints(t, client)); diff != "" || conflicts.Load() != 2 {
			t.Errorf("after %d patches (-want +got):\n%s", conflicts.Load(), diff)
		}
		if _, err := client.CoreV1().Nodes().Update(ctx, node(nil, ours[0]), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * taintRecheck)
		if got := taints(t, client); len(got) != 0 {
			t.Errorf("the taint came back and stays: %v", got)
		}
		cancel()
		run.Wait()
	})
}

func TestTellEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var mu sync.Mutex
		conditions := []Condition{{Reason: "Bad", Note: "mend it"}, {Reason: "Note", Note: "fine", Harmless: true}}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			TellEvents(ctx, EventsConfig{Client: of(client), Node: "n1", Log: logr.Discard(), Conditions: func(context.Context) []Condition {
				mu.Lock()
				defer mu.Unlock()
				return conditions
			}})
		})
		count := func() map[string]int32 {
			list, err := client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int32{}
			for _, e := range list.Items {
				if e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != "n1" || e.Source.Component != "kioo" {
					t.Errorf("an event is about %+v, by %+v", e.InvolvedObject, e.Source)
				}
				got[e.Type+" "+e.Reason+": "+e.Message] += e.Count
			}
			return got
		}
		time.Sleep(30 * time.Minute)
		if diff := cmp.Diff(map[string]int32{"Warning Bad: mend it": 1, "Normal Note: fine": 1}, count()); diff != "" {
			t.Errorf("after half an hour (-want +got):\n%s", diff)
		}
		mu.Lock()
		conditions = conditions[:1]
		mu.Unlock()
		time.Sleep(30 * time.Minute)
		if diff := cmp.Diff(map[string]int32{"Warning Bad: mend it": 2, "Normal Note: fine": 1}, count()); diff != "" {
			t.Errorf("after an hour (-want +got):\n%s", diff)
		}
		cancel()
		run.Wait()
	})
}

func TestAwaitDaemonSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", Generation: 1},
			Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, NumberReady: 2},
		}
		client := fake.NewClientset(set)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := AwaitDaemonSet(ctx, of(client), "ns", "d"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a status of the past: %v", err)
		}
		set.Status.ObservedGeneration = 1
		if _, err := client.AppsV1().DaemonSets("ns").Update(t.Context(), set, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := AwaitDaemonSet(t.Context(), of(client), "ns", "d"); err != nil {
			t.Error(err)
		}
	})
}

// late is a context whose deadline has passed, which its timer has not noticed yet.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now(), true }

// TestAwaitEnds has the last look fail because time is up: what is told is what was seen before.
func TestAwaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(&appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"},
			Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, NumberReady: 1},
		})
		looks := 0
		client.PrependReactor("get", "daemonsets", func(k8stesting.Action) (bool, runtime.Object, error) {
			looks++
			return looks > 1, nil, errors.New("would exceed context deadline")
		})
		ctx, cancel := context.WithTimeout(t.Context(), awaitEvery+awaitEvery/2)
		defer cancel()
		err := AwaitDaemonSet(late{ctx}, of(client), "ns", "d")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of 3 nodes are done") || looks != 2 {
			t.Errorf("%d looks: %v", looks, err)
		}
	})
}

func TestConnect(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Connect("", "kioo"); !errors.Is(err, ErrNoCluster) {
		t.Errorf("outside of a cluster: %v", err)
	}
}

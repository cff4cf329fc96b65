package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is one pod of a slice in a test.
type endpoint struct {
	ip                   string
	serving, terminating bool
}

func slice(name, service, port string, endpoints ...endpoint) *discoveryv1.EndpointSlice {
	number := int32(28502)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number}},
	}
	for _, e := range endpoints {
		ready := true
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{e.ip},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &e.serving, Terminating: &e.terminating},
		})
	}
	return s
}

// gone collects who departed.
type gone struct {
	mu   sync.Mutex
	list []string
}

func (g *gone) add(a netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = append(g.list, a.String())
}

func (g *gone) is(want ...string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Equal(g.list, want)
}

// eventually waits for what informers do on goroutines of their own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestMembers(t *testing.T) {
	client := fake.NewClientset(
		slice("a", "kioo", "discovery", endpoint{"10.0.0.1", true, false}, endpoint{"10.0.0.2", true, false}),
		slice("other", "else", "discovery", endpoint{"10.9.9.9", true, false}),
		slice("metrics", "kioo", "metrics", endpoint{"10.8.8.8", true, false}),
	)
	var left gone
	m, err := NewMembers(MembersConfig{Client: of(client), Namespace: "ns", Service: "kioo", Departed: left.add, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Peers(t.Context()); err == nil {
		t.Error("members are known before the API was asked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { m.Run(ctx) })
	defer run.Wait()
	defer cancel()
	peers := func(want ...string) func() bool {
		return func() bool {
			got, err := m.Peers(ctx)
			var text []string
			for _, a := range got {
				text = append(text, a.String())
			}
			return err == nil && slices.Equal(text, want)
		}
	}
	eventually(t, "both members", peers("10.0.0.1:28502", "10.0.0.2:28502"))

	api := client.DiscoveryV1().EndpointSlices("ns")
	set := func(s *discoveryv1.EndpointSlice) {
		t.Helper()
		if _, err := api.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// One that is lost stays listed but serves no more; one that starts never served, so it has not departed.
	set(slice("a", "kioo", "discovery", endpoint{"10.0.0.1", true, false}, endpoint{"10.0.0.2", false, false}, endpoint{"10.0.0.3", false, false}))
	eventually(t, "the third", peers("10.0.0.1:28502", "10.0.0.2:28502", "10.0.0.3:28502"))
	eventually(t, "the second departed", func() bool { return left.is("10.0.0.2:28502") })
	// Slices are re-arranged: nobody departs who is in another one.
	if _, err := api.Create(ctx, slice("b", "kioo", "discovery", endpoint{"10.0.0.1", true, false}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	set(slice("a", "kioo", "discovery", endpoint{"10.0.0.3", true, false}))
	eventually(t, "two slices", peers("10.0.0.1:28502", "10.0.0.3:28502"))
	// One terminates, and then a whole slice goes.
	set(slice("a", "kioo", "discovery", endpoint{"10.0.0.3", true, true}))
	eventually(t, "the third departed", func() bool { return left.is("10.0.0.2:28502", "10.0.0.3:28502") })
	if err := api.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody", peers())
	eventually(t, "all departed", func() bool { return left.is("10.0.0.2:28502", "10.0.0.3:28502", "10.0.0.1:28502") })
}

// TestCost holds the documentation to what one slice of a large cluster costs on the wire.
func TestCost(t *testing.T) {
	var endpoints []endpoint
	for i := range 100 {
		endpoints = append(endpoints, endpoint{fmt.Sprintf("10.100.%d.%d", i, i), true, false})
	}
	s := slice("kioo-abcde", "kioo", "discovery", endpoints...)
	for i := range s.Endpoints {
		node, zone := fmt.Sprintf("ip-10-100-%03d-%03d.eu-central-1.compute.internal", i, i), "eu-central-1a"
		s.Endpoints[i].NodeName, s.Endpoints[i].Zone = &node, &zone
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, discoveryv1.SchemeGroupVersion), s)
	if err != nil {
		t.Fatal(err)
	}
	if kib := float64(len(data)) / 1024; kib < 8 || kib > 16 {
		t.Errorf("a slice of 100 endpoints has %.1f KiB; docs/kubernetes.md says some 11", kib)
	} else {
		t.Logf("a slice of 100 endpoints has %.1f KiB", kib)
	}
}

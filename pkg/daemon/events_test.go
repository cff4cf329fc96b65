package daemon_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestEvents(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	m := &moving{}
	m.set("layer")
	upstream := httptest.NewServer(m)
	defer upstream.Close()
	var mu sync.Mutex
	got := map[string]events.Event{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct{ Events []events.Event }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range body.Events {
			got[e.Action+" "+e.Target.Digest+" "+e.Target.Tag] = e
		}
	}))
	defer hook.Close()
	cfg := rulesOf(t, "registries: [{match: '*', endpoints: [{url: '"+upstream.URL+"'}]}]\nevents: {endpoints: [{url: '"+hook.URL+"'}]}\n")
	manifest, layer := digest.FromString(m.manifest).String(), digest.FromString("layer").String()
	d, stop := start(t, cfg)
	base := "http://" + d.Addrs()[0].String() + "/v2/org/app/"
	for _, path := range []string{"manifests/v1", "blobs/" + layer, "blobs/" + digest.FromString("missing").String()} {
		get(t, base+path+"?ns=registry.example.com")
	}
	if err := stop(); err != nil { // Whatever was not sent yet is on disk.
		t.Fatal(err)
	}
	_, stop = start(t, cfg)
	wanted := []string{"pull " + manifest + " v1", "pull " + layer + " ", "push " + manifest + " ", "push " + layer + " "}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(wanted), func(key string) bool { _, ok := got[key]; return ok })
		mu.Unlock()
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("missing: %v", missing)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	e := got[wanted[0]]
	if e.Target.Repository != "registry.example.com/org/app" || e.Target.Size != int64(len(m.manifest)) || e.Target.MediaType != ocispec.MediaTypeImageManifest ||
		e.Request.Method != "GET" || e.Request.ID == "" || !strings.Contains(e.Target.URL, "/v2/org/app/manifests/v1") || e.Source.InstanceID == "" {
		t.Errorf("%+v", e)
	}
	if len(got) != len(wanted) {
		t.Errorf("%d events: %v", len(got), got)
	}
}

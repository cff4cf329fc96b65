package fleettest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/peer"
)

// stranger: without the cluster's key there is no way to what the nodes hold.
func stranger(t *testing.T, f *fleet.Fleet) {
	desc := push(t, f, "org/secret:v1", 50_000)
	first := f.Nodes[0]
	pullAnnounced(t, first, f.Upstream.Image("org/secret:v1"), 1)
	f.Upstream.Stop()
	defer resume(t, f)
	s, err := f.AddStranger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	object := "org/secret/manifests/" + desc.Digest.String()
	path := "/v2/" + object + "?ns=" + f.Upstream.Host()

	t.Run("member can", func(t *testing.T) { // So that the others fail for want of the key alone.
		keys, err := peer.LoadKeys([]string{f.KeyFile()})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ask(t, s, keys, first.PeerAddr(), path); err != nil || got != http.StatusOK {
			t.Errorf("%d, %v", got, err)
		}
	})
	t.Run("peer API", func(t *testing.T) {
		if got, err := ask(t, s, []peer.Key{peer.NewKey()}, first.PeerAddr(), path); err == nil {
			t.Errorf("another key: %d", got)
		}
		client := s.Client()
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		if got, err := get(t, client, "https://"+first.PeerAddr()+path); err == nil {
			t.Errorf("no certificate: %d", got)
		}
		if got, err := get(t, s.Client(), "http://"+first.PeerAddr()+path); err == nil && got == http.StatusOK {
			t.Error("plain HTTP gets an answer")
		}
	})
	t.Run("mirror", func(t *testing.T) {
		for _, port := range []uint16{28500, 28503, 28504} {
			conn, err := s.Dial(t.Context(), "tcp", netip.AddrPortFrom(first.Addr, port).String())
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("port %d of another node: %v, want a refusal", port, err)
			}
		}
	})
	t.Run("DHT", func(t *testing.T) { outsider(t, f, s, object) })
}

// outsider: a Kioo with another key finds the nodes and is not let in.
func outsider(t *testing.T, f *fleet.Fleet, s *fleet.Node, object string) {
	if err := s.StartKioo(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.KillKioo()
	eventually(t, settleTime, "the stranger has tried", func() bool {
		m := metrics(t, s)
		return m.Sum("kioo_discovery_bootstrap_rounds_total") > 0
	})
	for range 20 { // Members know each other within a fraction of that.
		if got := metrics(t, s).Sum("kioo_discovery_members"); got != 0 {
			t.Fatalf("the stranger knows %v members", got)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, n := range f.Nodes {
		if got := int(metrics(t, n).Sum("kioo_discovery_members", `state="live"`)); got != len(f.Nodes)-1 {
			t.Errorf("%s knows %d members", n.Name, got)
		}
	}
	if got := status(t, s, f, object); got != http.StatusNotFound {
		t.Errorf("the stranger's mirror answers %d", got)
	}
	if log := s.Log(); strings.Contains(log, "panic") {
		t.Error(log)
	}
}

// ask asks a member's peer API as somebody with these keys.
func ask(t *testing.T, from *fleet.Node, keys []peer.Key, addr, path string) (int, error) {
	t.Helper()
	credentials, err := peer.NewCredentials(keys, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	client := from.Client()
	client.Transport.(*http.Transport).TLSClientConfig = credentials.Client()
	return get(t, client, "https://"+addr+path)
}

func get(t *testing.T, client *http.Client, url string) (int, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(peer.ClaimHeader, string(access.ClaimChecked)) // As a member whose client may read it.
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

package fleettest

import (
	"context"
	"sync"
	"testing"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// TestPrivateImageAtOnce has eight nodes pull a private image at the same instant, each with a token of its own.
func TestPrivateImageAtOnce(t *testing.T) {
	const size = 3<<20 + 200_000 // As newTenancy makes it.
	ten := newTenancy(t, registrytest.AuthToken, 8, containerdtest.V2)
	ten.Upstream.Forget()
	var pulls sync.WaitGroup
	for _, n := range ten.Nodes {
		pulls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), pullTime)
			defer cancel()
			if _, err := n.Containerd.PullAs(ctx, ten.Upstream.Image(repoA+":v1"), tenantA, passwordA); err != nil {
				t.Errorf("%s: %v", n.Name, err)
			}
		})
	}
	pulls.Wait()
	tokens := map[string]bool{}
	for _, r := range ten.Upstream.Requests() {
		if header := r.Header.Get("Authorization"); header != "" && r.Status == 200 {
			tokens[header] = true
		}
	}
	if len(tokens) < len(ten.Nodes) {
		t.Errorf("upstream accepted %d tokens, and each node has one of its own", len(tokens))
	}
	if agents := asked(ten.Fleet); len(agents) != 1 || !agents["kioo"] {
		t.Errorf("upstream was asked by %v, want kioo alone", agents)
	}
	copies := float64(ten.Upstream.BlobBytes("")) / size
	t.Logf("upstream sent %.2f copies", copies)
	// It is one. A node that stands still for half a second is taken for dead, and its lease given to another.
	if copies > 3 {
		t.Errorf("upstream sent %.2f copies to %d nodes", copies, len(ten.Nodes))
	}
	for _, n := range ten.Nodes {
		for name, header := range ten.wrong(t) {
			if code, text := askMirror(t, n, "GET", ten.Upstream.Host(), repoA+"/"+ten.objects[2], header); code == 200 {
				t.Errorf("%s: with %s: %.200s", n.Name, name, text)
			}
		}
	}
}

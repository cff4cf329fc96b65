package fleettest

import (
	"context"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/hack/fleet"
)

// prefetched: an image that was brought into the caches of two nodes is pulled by all three, and upstream is asked for
// no blob.
func prefetched(t *testing.T, f *fleet.Fleet) {
	const size, copies = 4<<20 + 100_000, 2
	push(t, f, "org/prefetched:v1", 4<<20, 100_000)
	image := f.Upstream.Image("org/prefetched:v1")
	cached := func(n *fleet.Node) int64 { return int64(metrics(t, n).Sum("kioo_cache_bytes")) }
	before, told := map[string]int64{}, map[string]int{}
	for _, n := range f.Nodes {
		before[n.Name], told[n.Name] = cached(n), announced(t, n)
	}
	f.Upstream.Forget()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	out, err := f.Nodes[0].Output(ctx, f.Nodes[0].Program, "prefetch", "--config", f.Nodes[0].ConfigFile(), "--copies", "2", image)
	if err != nil {
		t.Fatal(err)
	}
	chosen := map[string]bool{}
	for _, n := range f.Nodes {
		if cached(n)-before[n.Name] >= size {
			chosen[n.Name] = true
		}
	}
	if len(chosen) != copies || strings.Count(out, image+" on ") != copies {
		t.Fatalf("%v have it, want %d nodes:\n%s", chosen, copies, out)
	}
	if sent := f.Upstream.BlobBytes(""); sent < size || sent > size*3/2 {
		t.Errorf("for %d copies upstream sent %d bytes, of an image of %d", copies, sent, size)
	}
	if _, err := f.Nodes[0].Output(ctx, f.Nodes[0].Program, "prefetch", "--config", f.Nodes[0].ConfigFile(), f.Upstream.Image("org/none:v1")); err == nil {
		t.Error("prefetch of an image that nobody has ended well")
	}

	// The last bytes were there before they were on disk, and the others knew.
	for _, n := range f.Nodes {
		const keys = 6 // Tag, index, manifest, configuration and two layers.
		if chosen[n.Name] {
			waitAnnounced(t, n, told[n.Name]+keys)
		}
	}
	f.Upstream.Forget()
	for _, n := range f.Nodes {
		peer, upstream := fetched(t, n, "peer"), fetched(t, n, "upstream")
		pull(t, n, image)
		peer, upstream = fetched(t, n, "peer")-peer, fetched(t, n, "upstream")-upstream
		t.Logf("%s, which is chosen (%t), got %d bytes from other members and %d from upstream", n.Name, chosen[n.Name], peer, upstream)
		if upstream > 0 || chosen[n.Name] && peer > 0 || !chosen[n.Name] && peer < size {
			t.Errorf("%s, which is chosen (%t), got %d bytes from other members and %d from upstream", n.Name, chosen[n.Name], peer, upstream)
		}
	}
	for _, r := range f.Upstream.BlobRequests("") {
		t.Errorf("upstream was asked for %s by %s, and said %d", r.URI, r.Header.Get("User-Agent"), r.Status)
	}
	if agents := asked(f); len(agents) > 1 || len(agents) == 1 && !agents["kioo"] {
		t.Errorf("upstream was asked by %v, want kioo at most", agents)
	}
}

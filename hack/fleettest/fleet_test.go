package fleettest

import (
	"archive/tar"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/peer"
)

// zones make node-1 the first choice of node-3.
var zones = []string{"here", "there", "here"}

func TestNewestContainerd(t *testing.T) {
	f := newFleet(t, fleet.Config{Nodes: 3, Zones: zones, Containerd: containerdtest.V2})
	t.Run("without upstream", func(t *testing.T) { withoutUpstream(t, f) })
	t.Run("imported", func(t *testing.T) { imported(t, f) })
	t.Run("removed", func(t *testing.T) { removed(t, f) })
	t.Run("prefetched", func(t *testing.T) { prefetched(t, f) })
	t.Run("stranger", func(t *testing.T) { stranger(t, f) })
	t.Run("certs.d", func(t *testing.T) { certsDir(t, f) })
	t.Run("faults", func(t *testing.T) { faults(t, f) })
}

func TestOldestContainerd(t *testing.T) {
	f := newFleet(t, fleet.Config{Nodes: 3, Zones: zones, Containerd: containerdtest.V1})
	t.Run("without upstream", func(t *testing.T) { withoutUpstream(t, f) })
	t.Run("imported", func(t *testing.T) { imported(t, f) })
	t.Run("removed", func(t *testing.T) { removed(t, f) })
	t.Run("prefetched", func(t *testing.T) { prefetched(t, f) })
	t.Run("certs.d", func(t *testing.T) { certsDir(t, f) })
}

func TestDiscardedLayers(t *testing.T) {
	for _, version := range containerdtest.Versions() {
		t.Run(string(version), func(t *testing.T) {
			f := newFleet(t, fleet.Config{Nodes: 3, Containerd: version, DiscardUnpackedLayers: true})
			withoutUpstream(t, f)
		})
	}
}

// withoutUpstream: one node pulls, upstream goes, and the others pull the same all the same.
func withoutUpstream(t *testing.T, f *fleet.Fleet) {
	const size = 5<<20 + 3<<20 + 10_000
	f.Upstream.Forget()
	desc := push(t, f, "org/app:v1", 5<<20, 3<<20, 10_000)
	pullAnnounced(t, f.Nodes[0], f.Upstream.Image("org/app:v1"), 3)
	if agents := asked(f); len(agents) != 1 || !agents["kioo"] {
		t.Errorf("upstream was asked by %v, want kioo alone", agents)
	}
	f.Upstream.Stop()
	defer resume(t, f)
	for i, images := range [][]string{
		{"org/app:v1", "org/app@" + desc.Digest.String()},
		{"org/app@" + desc.Digest.String(), "org/app:v1"},
	} {
		n := f.Nodes[i+1]
		before := fetched(t, n, "peer")
		for _, image := range images {
			t.Logf("%s has %s after %v", n.Name, image, pull(t, n, f.Upstream.Image(image)).Round(time.Millisecond))
		}
		if got := fetched(t, n, "peer") - before; got < size {
			t.Errorf("%s got %d bytes from other members, want at least %d", n.Name, got, size)
		}
	}
}

func resume(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	if err := f.Upstream.Resume(); err != nil {
		t.Error(err)
	}
}

// imported: an image that no registry ever had is pulled from the node where ctr imported it.
func imported(t *testing.T, f *fleet.Fleet) {
	name := f.Upstream.Image("org/imported:v1")
	importOn(t, f.Nodes[0], name)
	f.Upstream.Stop()
	defer resume(t, f)
	for _, n := range f.Nodes[1:] {
		// Whose content is that nobody saw come counts only after it has been there for a while.
		took := eventually(t, 30*time.Second, n.Name+" gets what was imported", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), pullTime)
			defer cancel()
			return n.Pull(ctx, name) == nil
		})
		t.Logf("%s has it after %v", n.Name, took.Round(time.Millisecond))
	}
}

// importOn imports an image on a node, waits until the others know, and returns its manifest's digest and a layer's.
func importOn(t *testing.T, n *fleet.Node, name string) (manifest, layer v1.Hash) {
	t.Helper()
	const keys = 5 // Tag, manifest, configuration and two layers.
	before := metrics(t, n)
	archive, img := archiveOf(t, name, 2<<20, 100_000)
	args := []string{"--namespace", containerdtest.Namespace, "images", "import", archive}
	if n.Containerd.Version() == containerdtest.V1 {
		args = append(args[:4], "--local", archive) // As the ctr of that version does it.
	}
	if _, err := n.Containerd.Ctr(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	eventually(t, settleTime, "the tag is known", func() bool {
		return metrics(t, n).Sum("kioo_containerd_tags") > before.Sum("kioo_containerd_tags")
	})
	// CRI hears of it when Kioo does, and knows nothing to remove before that.
	eventually(t, settleTime, "CRI knows the image", func() bool {
		images, err := n.Containerd.Images(t.Context())
		return err == nil && slices.ContainsFunc(images, func(i *runtimeapi.Image) bool { return slices.Contains(i.RepoTags, name) })
	})
	waitAnnounced(t, n, int(before.Sum("kioo_discovery_announced_keys"))+keys)
	manifest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if layer, err = layers[0].Digest(); err != nil {
		t.Fatal(err)
	}
	return manifest, layer
}

// archiveOf writes an image as an archive that ctr imports under that name.
func archiveOf(t *testing.T, name string, layers ...int64) (string, v1.Image) {
	t.Helper()
	img, err := registrytest.NewImage(seed(t.Name()+name), v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	err = path.AppendImage(img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": name}))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "image.tar")
	file, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(file)
	if err := errors.Join(w.AddFS(os.DirFS(string(path))), w.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	return archive, img
}

// removed: what containerd has collected is not served, and nobody is sent there.
func removed(t *testing.T, f *fleet.Fleet) {
	first := f.Nodes[0]
	t.Run("imported", func(t *testing.T) {
		const name = "org/removed:imported"
		before := announced(t, first)
		manifest, layer := importOn(t, first, f.Upstream.Image(name))
		gone(t, f, name, before, manifest, layer)
	})
	t.Run("pulled", func(t *testing.T) {
		const name = "org/removed:pulled"
		before, desc := announced(t, first), push(t, f, name, 1<<20)
		pullAnnounced(t, first, f.Upstream.Image(name), 1)
		gone(t, f, name, before, desc.Digest)
	})
}

// gone removes an image from node-1 and checks that others don't get it there any more, and aren't sent there.
func gone(t *testing.T, f *fleet.Fleet, name string, keys int, digests ...v1.Hash) {
	const atMost = 30 * time.Second
	first, second := f.Nodes[0], f.Nodes[1]
	f.Upstream.Break(registrytest.Answer(http.StatusNotFound)) // So that an answer can only come from a node.
	defer f.Upstream.Break(nil)
	members, err := peer.LoadKeys([]string{f.KeyFile()})
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, _ := strings.Cut(name, ":")
	served := func(digest v1.Hash) int {
		path := "/v2/" + repository + "/blobs/" + digest.String() + "?ns=" + f.Upstream.Host()
		got, err := ask(t, second, members, first.PeerAddr(), path)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, digest := range digests {
		eventually(t, atMost, "what is there is given", func() bool { return served(digest) == http.StatusOK })
	}
	if err := first.Containerd.Remove(t.Context(), f.Upstream.Image(name)); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, atMost, "what was removed is announced no more", func() bool {
		m := metrics(t, first)
		return int(m.Sum("kioo_discovery_announced_keys")) <= keys && m.Sum("kioo_discovery_pending_keys") == 0
	})
	for _, digest := range digests {
		took += eventually(t, atMost-took, "what was removed is served no more", func() bool {
			return served(digest) == http.StatusNotFound
		})
	}
	t.Logf("gone after %v", took.Round(time.Millisecond))
	objects := []string{"manifests/" + tag}
	for _, digest := range digests {
		objects = append(objects, "blobs/"+digest.String())
	}
	for _, object := range objects {
		if got := status(t, second, f, repository+"/"+object); got != http.StatusNotFound {
			t.Errorf("%s answers %d for %s, which nobody has", second.Name, got, object)
		}
	}
}

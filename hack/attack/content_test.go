package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// rulesOf gives rules, or fails.
func rulesOf(t *testing.T, rules []evilregistry.Rule, err error) []evilregistry.Rule {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// indexOf writes an index.
func indexOf(t *testing.T, manifests ...ocispec.Descriptor) []byte {
	t.Helper()
	body, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func descriptorOf(o object, platform string) ocispec.Descriptor {
	os, arch, _ := strings.Cut(platform, "/")
	return ocispec.Descriptor{
		MediaType: o.mediaType, Digest: o.digest, Size: o.size, Platform: &ocispec.Platform{OS: os, Architecture: arch},
	}
}

// patience is how long an attacker tries.
const patience = 12 * time.Second

// TestAttackBNamed: the author of an image, who knows one digest, names a private manifest in an index of his own,
// for a platform that nobody pulls, and has a pod pull that on the node which holds the private image. Then everybody
// would get all of it in the name of his public repository, on this node and on the other. Nobody must.
func TestAttackBNamed(t *testing.T) { defended(t, named) }

func named(t *testing.T, w *world) (reached []string) {
	img := w.secret(t, 200_000)
	w.pullAnnounced(t, w.Nodes[0], img, tenantA, passwordA)
	repos := map[string]string{}
	for how, build := range map[string]func(own, theirs ocispec.Descriptor) []ocispec.Descriptor{
		"another platform": func(own, theirs ocispec.Descriptor) []ocispec.Descriptor { return []ocispec.Descriptor{own, theirs} },
		"an index in an index": func(own, theirs ocispec.Descriptor) []ocispec.Descriptor {
			inner := theirs
			inner.MediaType = ocispec.MediaTypeImageIndex
			return []ocispec.Descriptor{own, inner}
		},
	} {
		repo := w.fresh("named")
		own := describe(t, w.evil.Host(), repo, "v1", newImage(t, repo, 5_000))
		index := indexOf(t, build(descriptorOf(own.objects[0], "linux/amd64"), descriptorOf(img.objects[0], "plan9/mips"))...)
		image, err := evilregistry.Image(repo, "", own.Image)
		if err != nil {
			t.Fatal(err)
		}
		tag, err := evilregistry.Manifest(repo, "v1", ocispec.MediaTypeImageIndex, index)
		w.evil.rules(t, image, rulesOf(t, tag, err))
		pull(t, w.Nodes[0], own.name(), "", "")
		repos[repo] = how
	}
	// It may take a moment until the node has looked at what containerd has.
	for began := time.Now(); time.Since(began) < patience && len(reached) == 0; {
		for repo, how := range repos {
			for _, what := range w.stolenAs(t, img, w.evil.Host(), repo, nobody()) {
				reached = append(reached, how+": "+what)
			}
		}
	}
	return reached
}

// TestAttackBLayer: his manifest names a private layer by its digest. containerd gives it to his own pod on that
// node; Kioo must give it to nobody in his name, neither there nor on another node, and nothing else of the image.
func TestAttackBLayer(t *testing.T) { defended(t, namedLayer) }

func namedLayer(t *testing.T, w *world) (reached []string) {
	img := w.secret(t, 200_000)
	w.pullAnnounced(t, w.Nodes[0], img, tenantA, passwordA)
	repo := w.fresh("layer")
	body, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	body = append(body[:len(body)-1], `,"annotations":{"mine":"yes"}}`...)
	manifest, err := evilregistry.Manifest(repo, "v1", ocispec.MediaTypeImageManifest, body)
	config, cerr := img.RawConfigFile()
	blob, berr := evilregistry.Blob(repo, config) // He may well know it, and not the layers.
	if err := errors.Join(err, cerr, berr); err != nil {
		t.Fatal(err)
	}
	// And he says of everything that he has it.
	w.evil.rules(t, manifest, blob, []evilregistry.Rule{evilregistry.Claims(repo, img.objects[2].size)})
	if err := pulls(t, w.Nodes[0], w.evil.Host()+"/"+repo+":v1", "", ""); err != nil {
		t.Logf("containerd itself does not give it: %v", err)
	}
	for _, n := range w.Nodes {
		for _, o := range img.objects {
			if strings.HasPrefix(o.path, "blobs/") && o.digest == img.objects[1].digest {
				continue // He serves it himself.
			}
			for range 2 {
				if a := ask(t, n, request{registry: w.evil.Host(), path: repo + "/" + o.path}); a.is(o.digest) {
					reached = append(reached, fmt.Sprintf("%s on %s, in the name of his repository", o.path, n.Name))
				}
			}
		}
	}
	return reached
}

// TestAttackCType: the author of an image serves a public manifest's bytes as something else. He wants that nobody
// can pull the public image any more; its type must stay what it is, here and on the other node, and over a restart.
func TestAttackCType(t *testing.T) { defended(t, retyped) }

func retyped(t *testing.T, w *world) (reached []string) {
	for _, wrong := range []string{
		"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
		ocispec.MediaTypeImageIndex, "text/html", "application/octet-stream",
	} {
		img := w.push(t, w.public, w.fresh("typed"), "v1", 10_000)
		body, err := img.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		repo := w.fresh("retyped")
		rules, err := evilregistry.Manifest(repo, "v1", wrong, body)
		w.evil.rules(t, rulesOf(t, rules, err))
		for _, n := range []*fleet.Node{w.Nodes[1], w.Nodes[0]} { // The one before it holds it, and the other after that.
			for _, object := range []string{"manifests/v1", img.objects[0].path} {
				for _, method := range []string{http.MethodHead, http.MethodGet} {
					ask(t, n, request{method: method, registry: w.evil.Host(), path: repo + "/" + object})
				}
			}
			w.fetch(t, w.Nodes[0], img, "")
		}
		reached = append(reached, w.wrongTypes(t, img, "served as "+wrong)...)
	}
	// What memory hides shows after a restart.
	types := map[string]*image{}
	for _, wrong := range []string{"application/vnd.docker.distribution.manifest.list.v2+json", ocispec.MediaTypeImageIndex} {
		img := w.push(t, w.public, w.fresh("typed"), "v1", 10_000)
		w.fetch(t, w.Nodes[0], img, "")
		body, _ := img.RawManifest() // It was there a moment ago.
		repo := w.fresh("retyped")
		rules, err := evilregistry.Manifest(repo, "v1", wrong, body)
		w.evil.rules(t, rulesOf(t, rules, err))
		ask(t, w.Nodes[0], request{registry: w.evil.Host(), path: repo + "/" + img.objects[0].path})
		types[wrong] = img
	}
	w.restart(t, w.Nodes[0])
	for wrong, img := range types {
		w.waitKnown(t, w.Nodes[0], img.digests()...)
		reached = append(reached, w.wrongTypes(t, img, "served as "+wrong+", after a restart")...)
		if err := pulls(t, w.Nodes[0], img.name(), "", ""); err != nil {
			reached = append(reached, fmt.Sprintf("containerd can't pull it any more: %v", err))
		}
	}
	return reached
}

// wrongTypes asks all nodes for a manifest, by digest and by tag, and gives those answers whose type is not its own.
func (w *world) wrongTypes(t *testing.T, img *image, how string) (wrong []string) {
	t.Helper()
	for _, n := range w.Nodes {
		for _, object := range []string{img.objects[0].path, "manifests/" + img.tag} {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				a := ask(t, n, request{method: method, registry: img.registry, path: img.repo + "/" + object})
				if got := a.header.Get("Content-Type"); a.status != http.StatusOK || got != img.objects[0].mediaType {
					wrong = append(wrong, fmt.Sprintf("%s %s of a public image is %q (%v) on %s, %s", method, lastOf(object), got, a, n.Name, how))
				}
			}
		}
	}
	return wrong
}

// TestAttackDSize: the author of an image names a layer of somebody else's with a wrong size. He wants that other
// nodes refuse the true one from each other; with upstream down they must still get it.
func TestAttackDSize(t *testing.T) { defended(t, wrongSize) }

func wrongSize(t *testing.T, w *world) (reached []string) {
	for name, lie := range map[string]func(int64) int64{
		"one byte more": func(n int64) int64 { return n + 1 }, "one byte less": func(n int64) int64 { return n - 1 },
		"nothing":  func(int64) int64 { return 0 },
		"a tera":   func(int64) int64 { return 1 << 40 },
		"negative": func(int64) int64 { return -1 },
	} {
		for _, size := range []int64{100_000, 5 << 20} { // A blob of one piece, and one of several.
			img := w.push(t, w.public, w.fresh("sized"), "v1", size)
			w.fetch(t, w.Nodes[0], img, "")
			o := img.layers()[0]
			repo := w.fresh("sizes")
			rules, err := evilregistry.Manifest(repo, "v1", ocispec.MediaTypeImageManifest, manifestNaming(t, o, lie(o.size)))
			w.evil.rules(t, rulesOf(t, rules, err))
			for _, n := range w.Nodes {
				ask(t, n, request{registry: w.evil.Host(), path: repo + "/manifests/v1"})
			}
			// The node knows the repository, and nothing of the layer.
			ask(t, w.Nodes[1], request{registry: img.registry, path: img.repo + "/tags/list"})
			up := w.publicDown(t)
			if a := ask(t, w.Nodes[1], request{registry: img.registry, path: img.repo + "/" + o.path}); !a.is(o.digest) {
				reached = append(reached, fmt.Sprintf("%d bytes named as %s: node-2 does not get the layer from node-1: %v", size, name, a))
			}
			if up(); len(reached) > 0 {
				return reached // One is enough, and each takes its time.
			}
		}
	}
	return reached
}

func manifestNaming(t *testing.T, layer object, size int64) []byte {
	t.Helper()
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{{MediaType: layer.mediaType, Digest: layer.digest, Size: size}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestAttackDMember: a member announces a layer with a wrong size, and says to have all of it, before anybody else.
// The other nodes must get the layer, each with upstream's help if need be.
func TestAttackDMember(t *testing.T) { defended(t, memberSize) }

func memberSize(t *testing.T, w *world) (reached []string) {
	for _, lie := range []int64{0, 1, 20 << 20, 1 << 40} {
		const size = 6 << 20
		img := w.push(t, w.public, w.fresh("announced"), "v1", size)
		o := img.layers()[0]
		w.member.lies(t, evilmember.Lies{
			Content:   []evilmember.Content{{Digest: o.digest, Body: []byte("not it"), Size: max(lie, 1)}},
			Announces: []map[string]any{{"key": o.digest.String(), "size": lie, "complete": true}},
		})
		eventually(t, settleTime, "the trackers have heard it", func() bool { return w.member.heard(t) })
		for _, n := range w.Nodes {
			start := time.Now()
			a := ask(t, n, request{registry: img.registry, path: img.repo + "/" + o.path})
			if took := time.Since(start); !a.is(o.digest) || took > 20*time.Second {
				reached = append(reached, fmt.Sprintf("announced with %d bytes, %s gets %v after %v", lie, n.Name, a, took))
				return reached
			}
		}
	}
	return reached
}

// heard tells whether the member has posted all that it has to say, by what it counted.
func (m *member) heard(t *testing.T) bool {
	t.Helper()
	var state struct{ Said int }
	if err := m.do(t.Context(), http.MethodGet, "state", nil, &state); err != nil {
		t.Fatal(err)
	}
	return state.Said > 1 // The first round may have begun before.
}

// TestAttackEPromise: the owner of a registry promises a blob of nearly the cache's size, and sends one byte of it.
// He wants that the node throws away all that it holds; it must still have it.
func TestAttackEPromise(t *testing.T) { defended(t, promise) }

func promise(t *testing.T, w *world) (reached []string) {
	w.renew(t, w.Nodes[0].Program) // So that all that the cache holds is what is looked for.
	for _, size := range []int64{cacheBytes / 2, cacheBytes * 3 / 4, cacheBytes - 1<<20, 10 * cacheBytes} {
		img := w.push(t, w.public, w.fresh("held"), "v1", 40<<20, 20<<20, 100_000)
		img.registry = "held.example.net" // Registries that are addresses are all one owner's, and pay for each other.
		w.askAll(t, w.Nodes[0], img)
		repo := w.fresh("stub")
		var rules []evilregistry.Rule
		for i := range 4 {
			rules = append(rules, evilregistry.Stub(repo, img.objects[0].digest.Algorithm().FromString(fmt.Sprint(repo, i)).String(), size))
		}
		w.evil.rules(t, rules)
		var glances sync.WaitGroup
		for _, rule := range rules {
			glances.Go(func() { glance(t, w.Nodes[0], request{registry: w.evil.Host(), path: repo + "/" + rule.Object}) })
		}
		glances.Wait()
		before := w.metrics(t, w.Nodes[0]).Sum("kioo_cache_evictions_total")
		up := w.publicDown(t)
		for _, o := range img.objects {
			if a := ask(t, w.Nodes[0], request{registry: img.registry, path: img.repo + "/" + o.path}); !a.is(o.digest) {
				reached = append(reached, fmt.Sprintf("%s is gone for a promise of %d bytes (%v, %v evictions)", o.path, size, a, before))
			}
		}
		up()
	}
	return reached
}

// glance asks, and leaves when the answer has begun, or has not within a moment.
func glance(t *testing.T, n *fleet.Node, r request) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	_, _ = try(ctx, n, r) // That it broke off is the point.
}

// TestAttackEFlood: a registry brings real bytes, more than the cache holds, each asked for once. What somebody
// else's registry brought, and is asked for again and again, must stay.
func TestAttackEFlood(t *testing.T) { defended(t, flood) }

func flood(t *testing.T, w *world) (reached []string) {
	img := w.push(t, w.public, w.fresh("loved"), "v1", 8<<20, 100_000)
	img.registry = "loved.example.net" // Registries that are addresses are all one owner's.
	for range 5 {
		w.askAll(t, w.Nodes[0], img)
	}
	repo := w.fresh("flood")
	const blob, blobs = 6 << 20, 2 * cacheBytes / (6 << 20)
	for i := range blobs {
		body := make([]byte, blob)
		copy(body, fmt.Sprintf("%s %d", repo, i))
		rules, err := evilregistry.Blob(repo, body)
		w.evil.rules(t, rulesOf(t, rules, err))
		if a := ask(t, w.Nodes[0], request{registry: w.evil.Host(), path: repo + "/" + rules[0].Object}); a.status != http.StatusOK {
			t.Fatalf("the flood itself: %v", a)
		}
	}
	defer w.publicDown(t)()
	for _, o := range img.objects {
		if a := ask(t, w.Nodes[0], request{registry: img.registry, path: img.repo + "/" + o.path}); !a.is(o.digest) {
			reached = append(reached, fmt.Sprintf("%s, which is asked for often, is gone", o.path))
		}
	}
	return reached
}

// askAll asks a node for all of an image.
func (w *world) askAll(t *testing.T, n *fleet.Node, img *image) {
	t.Helper()
	for _, o := range img.objects {
		if a := ask(t, n, request{registry: img.registry, path: img.repo + "/" + o.path}); !a.is(o.digest) {
			t.Fatalf("%s: %v", o.path, a)
		}
	}
}

// TestAttackKZeroHash: a neighbour in a swarm says that its pieces hash to zeros, and sends something else. It wants
// that the pieces are taken unchecked, so that the whole has to be fetched again; no piece of it must be taken.
func TestAttackKZeroHash(t *testing.T) { defended(t, zeroHash) }

func zeroHash(t *testing.T, w *world) (reached []string) {
	const size = 16 << 20
	img := w.push(t, w.public, w.fresh("pieces"), "v1", size)
	o := img.layers()[0]
	pieces := make([]byte, 8) // A bit for each of 64 pieces.
	for i := range pieces {
		pieces[i] = 0xff
	}
	w.member.lies(t, evilmember.Lies{
		Content:   []evilmember.Content{{Digest: o.digest, Body: []byte("garbage "), Size: o.size, Hash: make([]byte, 32), Silent: true}},
		Announces: []map[string]any{{"key": o.digest.String(), "size": o.size, "have": pieces}},
	})
	eventually(t, settleTime, "the trackers have heard it", func() bool { return w.member.heard(t) })
	breaks(t, w.public, registrytest.Only(isBlob, registrytest.Throttle(4<<20)))
	a := ask(t, w.Nodes[1], request{registry: img.registry, path: img.repo + "/" + o.path})
	if !a.is(o.digest) {
		reached = append(reached, fmt.Sprintf("the pull fails: %v, %v", a, a.broken))
	}
	for line := range strings.Lines(w.Nodes[1].Log()) {
		if strings.Contains(line, o.digest.String()) && strings.Contains(line, "starts over") {
			reached = append(reached, "it is fetched again, for pieces that were not checked")
		}
	}
	if !strings.Contains(w.Nodes[1].Log(), o.digest.String()) {
		t.Error("the node knows nothing of the blob")
	}
	return reached
}

func isBlob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

package random_test

import (
	"maps"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// play does one thing by chance, and looks at what came of it.
func (w *world) play() {
	n, client, repo := pick(w, w.nodes), pick(w, clients), pick(w, w.repos())
	switch step := w.random.IntN(100); {
	case step < 20:
		w.pull(n, client, repo, pick(w, tags))
	case step < 25:
		w.plot(n)
	case step < 45:
		w.ask(n, client, repo.name, pick(w, w.digests()), w.random.IntN(2) == 0)
	case step < 55:
		w.askTogether(n, pick(w, w.digests()))
	case step < 58:
		w.list(n, client, repo)
	case step < 64:
		w.push(repo)
		w.note("a new image in %s", repo.name)
	case step < 70:
		w.name(pick(w, w.digests()), pick(w, tags))
	case step < 74:
		w.change(repo)
	case step < 80:
		w.upset(pick(w, []*origin{w.victim, w.evil}))
	case step < 88:
		w.wait()
	case step < 91:
		w.restart(n)
	case step < 93:
		dgst := pick(w, w.digests())
		n.store.evict(dgst)
		w.note("%s evicts %s", n.name, dgst[:15])
	case step < 97:
		w.runtimePull(n, client, repo, pick(w, tags))
	case step < 98 && w.random.IntN(3) > 0:
		w.plot(n)
	case step < 98:
		if names := slices.Sorted(maps.Keys(n.runtime.images)); len(names) > 0 {
			image := pick(w, names)
			n.runtime.remove(image)
			w.note("the image %s goes from the runtime of %s", image, n.name)
		}
	default:
		w.newLies()
	}
}

// pull gets an image as a runtime does, and tells what came.
func (w *world) pull(n *node, client string, repo *repository, tag string) (came []digest.Digest) {
	w.note("%s pulls %s:%s on %s", name(client), repo.name, tag, n.name)
	ref := reference.Reference{Repository: repo.name, Tag: tag}
	body, a, err := n.get(client, ref, false)
	if err != nil {
		w.note("  %v", err)
		return nil
	}
	w.judge(n, client, ref, body)
	w.judgeTag(n, client, repo, tag, a.Descriptor.Digest)
	came = append(came, a.Descriptor.Digest)
	children, err := content.Children(body)
	if err != nil {
		return came
	}
	for _, c := range children {
		if w.ask(n, client, repo.name, c.Digest, !content.IsManifestType(c.MediaType)) {
			came = append(came, c.Digest)
		}
	}
	return came
}

// ask gets something by digest, and tells whether it came.
func (w *world) ask(n *node, client string, repo reference.Repository, dgst digest.Digest, blob bool) bool {
	ref := reference.Reference{Repository: repo, Digest: dgst}
	body, a, err := n.get(client, ref, blob)
	if err != nil {
		w.note("%s gets no %s on %s, blob %t: %v", name(client), ref, n.name, blob, err)
		return false
	}
	w.note("%s gets %s on %s, blob %t, from %q", name(client), ref, n.name, blob, a.Source)
	w.judge(n, client, ref, body)
	return true
}

func (w *world) list(n *node, client string, repo *repository) {
	w.note("%s lists %s on %s", name(client), repo.name, n.name)
	var o upstream.Origin
	_, _ = n.mirror.Tags(w.ctx, repo.name, 10, "", o)
	ref := reference.Reference{Repository: repo.name, Digest: repo.tags["v1"]}
	_, _ = n.mirror.Referrers(w.ctx, ref, "", o)
}

// name has the attacker push an image that names what is not his: under a platform that nobody pulls, as a layer, as
// the configuration, or with another size.
func (w *world) name(victim digest.Digest, tag string) {
	repo := w.evil.repos["mallory/app"]
	w.moves(repo, tag)
	w.images++
	own := repo.put(w.bytes("layer of mallory's"), "")
	own.MediaType = ocispec.MediaTypeImageLayerGzip
	named := ocispec.Descriptor{Digest: victim, Size: int64(len(w.bodyOf(victim))), MediaType: ocispec.MediaTypeImageLayerGzip}
	if w.random.IntN(3) == 0 {
		named.Size = pick(w, []int64{0, 1, named.Size - 1, named.Size + 1, 1 << 40})
	}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: own, Layers: []ocispec.Descriptor{own}}
	manifest.SchemaVersion = 2
	how := w.random.IntN(3)
	w.note("mallory's image %s names %s, in way %d, of size %d", tag, w.whose(victim), how, named.Size)
	switch how {
	case 0:
		manifest.Layers = append(manifest.Layers, named)
	case 1:
		manifest.Config = named
	case 2:
		repo.pushManifest(tag, manifest, ocispec.MediaTypeImageManifest)
		mine := ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: repo.tags[tag], Size: 1, Platform: &ocispec.Platform{OS: "linux"},
		}
		mine.Size = int64(len(repo.objects[mine.Digest].body))
		named.MediaType, named.Platform = ocispec.MediaTypeImageManifest, &ocispec.Platform{OS: "plan9"}
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{mine, named}}
		index.SchemaVersion = 2
		repo.pushManifest(tag, index, ocispec.MediaTypeImageIndex)
		return
	}
	repo.pushManifest(tag, manifest, ocispec.MediaTypeImageManifest)
}

func (w *world) bodyOf(dgst digest.Digest) []byte {
	for _, repo := range w.repos() {
		if o, ok := repo.objects[dgst]; ok {
			return o.body
		}
	}
	return nil
}

// change opens or closes a repository, or gives somebody leave or takes it.
func (w *world) change(repo *repository) {
	reg := w.registries[repo.name.Registry]
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if client := pick(w, clients); client != "" {
		if repo.clients[client] = !repo.clients[client]; !repo.clients[client] {
			repo.revoked[client] = w.at
		}
		w.note("%s may read %s: %t", client, repo.name, repo.clients[client])
		return
	}
	if repo.public = !repo.public; !repo.public {
		repo.closed = w.at
	}
	w.note("%s is for everybody: %t", repo.name, repo.public)
}

// upset changes what a registry does.
func (w *world) upset(reg *origin) {
	m := mood(w.random.IntN(int(moods)))
	if w.random.IntN(2) == 0 {
		m = well
	}
	w.set(reg, m)
	if reg == w.evil {
		reg.mu.Lock()
		reg.liar = w.random.IntN(2) == 0
		reg.mu.Unlock()
		w.note("%s lies about HEAD: %t", reg.host, reg.liar)
	}
}

func (w *world) wait() {
	w.pass(pick(w, []time.Duration{
		time.Second, 20 * time.Second, 31 * time.Second, 2 * time.Minute, 6 * time.Minute, 11 * time.Minute, 30 * 24 * time.Hour,
	}))
}

// restart ends a node's process and starts it again, with what was written down last, or with a part of that.
func (w *world) restart(n *node) {
	n.end()
	how := "with what was written down last"
	switch w.random.IntN(5) {
	case 0:
		if len(n.saved) > 0 {
			n.saved, how = n.saved[:len(n.saved)/2], "with half of what was written down"
		}
	case 1, 2, 3:
		n.save()
		how = "with all that it knew"
	}
	if how == "with what was written down last" {
		for _, repo := range w.repos() {
			repo.refused[n.name] = n.refused[repo.name]
		}
	}
	if how != "with all that it knew" {
		n.runtime.unload() // Whose that is was known from the book alone.
	}
	n.start()
	w.note("%s starts again %s", n.name, how)
}

// runtimePull has the container runtime of a node pull past the mirror, for somebody who may.
func (w *world) runtimePull(n *node, client string, repo *repository, tag string) {
	if reg := w.registries[repo.name.Registry]; reg.mood != well || !repo.may(client) {
		return
	}
	n.runtime.pull(repo, tag)
	w.note("the runtime of %s pulls %s:%s past the mirror", n.name, repo.name, tag)
}

// newLies has the member that was taken over say something else.
func (w *world) newLies() {
	if w.liar == nil {
		return
	}
	repo := w.evil.repos["mallory/app"]
	w.lies = lies{target: repo.tags[pick(w, tags)]}
	w.lies.body, w.lies.type_ = repo.objects[w.lies.target].body, repo.objects[w.lies.target].mediaType
	w.lies.size = len(w.lies.body)
	w.offered[w.lies.target] = true
	if w.random.IntN(2) == 0 {
		w.lies.body = nil
	}
	w.note("the member that was taken over says that all tags mean %s", w.lies.target[:15])
}

package attack

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
)

// TestAttackHLatest: a member says of a tag that moves, which the registry is asked for first, that it was confirmed
// just now, with an image of its own. It wants that other nodes run that; while the registry answers they must not.
// Where the operator chose peers-first, as for tags that don't move, members are believed by design: nothing is said of
// that here, and one that was taken over does move such a tag.
func TestAttackHLatest(t *testing.T) {
	defended(t, func(t *testing.T, w *world) []string { return tagLie(t, w, "latest") })
}

// TestAttackHOnly is TestAttackHLatest for a tag of which the operator said: upstream-only.
func TestAttackHOnly(t *testing.T) {
	defended(t, func(t *testing.T, w *world) []string { return tagLie(t, w, "only") })
}

// tagLie has the member lie about a tag in all ways: to who looks for it, to every tracker, and as one.
func tagLie(t *testing.T, w *world, tag string) (reached []string) {
	for _, known := range []string{"a tag that no node knows", "a tag that the node knows"} {
		repo := w.fresh("tagged")
		other := w.push(t, w.public, repo, "other", 10_000)
		img := w.push(t, w.public, repo, tag, 20_000)
		for _, n := range w.Nodes { // The registry has told who may read there: it is not asked for that again.
			ask(t, n, request{registry: img.registry, path: repo + "/" + other.objects[0].path})
			if known == "a tag that the node knows" {
				ask(t, n, request{registry: img.registry, path: repo + "/manifests/" + tag})
			}
		}
		theirs := describe(t, w.public.Host(), img.repo, tag, newImage(t, w.fresh("theirs"), 30_000))
		o := theirs.objects[0]
		lies := tagged(w.bring(t, theirs), img.name(), o, "0")
		said := map[string]any{"mediaType": o.mediaType, "digest": o.digest.String(), "size": o.size, "ageMs": 0}
		key := img.name()
		lies.Announces = []map[string]any{{"key": key, "size": 1, "complete": true, "tag": said}}
		answer, err := json.Marshal(map[string]any{"size": -1, "tag": said})
		if err != nil {
			t.Fatal(err)
		}
		lies.Answers = map[string]json.RawMessage{key: answer}
		w.member.lies(t, lies)
		eventually(t, settleTime, "the trackers have heard it", func() bool { return w.member.heard(t) })
		for _, n := range w.Nodes {
			a := ask(t, n, request{registry: img.registry, path: img.repo + "/manifests/" + tag})
			if got := a.header.Get("Docker-Content-Digest"); got == o.digest.String() {
				reached = append(reached, fmt.Sprintf("%s says that %s, %s, is the attacker's image", n.Name, key, known))
			}
		}
		// And as it goes on lying, what containerd pulls is the registry's.
		pull(t, w.Nodes[1], key, "", "")
		if got := w.holds(t, w.Nodes[1], o.digest.String()); got {
			reached = append(reached, fmt.Sprintf("containerd of node-2 has the attacker's image for %s, %s", key, known))
		}
	}
	return reached
}

// tagged adds that a tag means something since so long, as the member says when it is asked.
func tagged(lies evilmember.Lies, name string, o object, age string) evilmember.Lies {
	lies.Tags = []evilmember.Tag{{Name: name, MediaType: o.mediaType, Digest: o.digest, Size: o.size, Age: age}}
	lies.Header = map[string]string{"Kioo-Age-Ms": age}
	return lies
}

// bring has the member hold an image of its own.
func (w *world) bring(t *testing.T, img *image) evilmember.Lies {
	t.Helper()
	var lies evilmember.Lies
	add := func(o object, body []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		lies.Content = append(lies.Content, evilmember.Content{Digest: o.digest, MediaType: o.mediaType, Body: body})
	}
	manifest, err := img.RawManifest()
	add(img.objects[0], manifest, err)
	config, err := img.RawConfigFile()
	add(img.objects[1], config, err)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range layers {
		body, err := readLayer(layer)
		add(img.layers()[i], body, err)
	}
	return lies
}

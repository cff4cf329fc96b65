package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
)

// TestAttackBOtherwise: as TestAttackBNamed, by other ways in which a manifest names content: as its configuration, as
// what it is about, and as a layer among his own. He brings what else there is, and says of the rest that he has it.
func TestAttackBOtherwise(t *testing.T) { defended(t, namedOtherwise) }

func namedOtherwise(t *testing.T, w *world) (reached []string) {
	img := w.secret(t, 150_000)
	w.pullAnnounced(t, w.Nodes[0], img, tenantA, passwordA)
	of := func(o object) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: o.mediaType, Digest: o.digest, Size: o.size}
	}
	var rules [][]evilregistry.Rule
	repos := map[string]string{}
	for how, name := range map[string]func(m *ocispec.Manifest){
		"the configuration":   func(m *ocispec.Manifest) { m.Config = of(img.objects[1]) },
		"the subject":         func(m *ocispec.Manifest) { subject := of(img.objects[0]); m.Subject = &subject },
		"a manifest as layer": func(m *ocispec.Manifest) { m.Layers = append(m.Layers, of(img.objects[0])) },
		"a layer":             func(m *ocispec.Manifest) { m.Layers = append(m.Layers, of(img.objects[2])) },
	} {
		repo := w.fresh("otherwise")
		own := describe(t, w.evil.Host(), repo, "v1", newImage(t, repo, 5_000))
		manifest := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: of(own.objects[1]),
			Layers: []ocispec.Descriptor{of(own.objects[2])},
		}
		name(&manifest)
		body, err := json.Marshal(manifest)
		image, ierr := evilregistry.Image(repo, "", own.Image)
		tag, terr := evilregistry.Manifest(repo, "v1", ocispec.MediaTypeImageManifest, body)
		if err := errors.Join(err, ierr, terr); err != nil {
			t.Fatal(err)
		}
		referrers := indexOf(t, of(img.objects[0]))
		rules = append(rules, image, tag, []evilregistry.Rule{
			{Repository: repo, Object: "referrers/*", Body: referrers, Header: map[string]string{"Content-Type": ocispec.MediaTypeImageIndex}},
			evilregistry.Claims(repo, img.objects[2].size),
		})
		repos[repo] = how
	}
	w.evil.rules(t, rules...)
	for repo, how := range repos {
		if err := pulls(t, w.Nodes[0], w.evil.Host()+"/"+repo+":v1", "", ""); err != nil {
			t.Logf("%s: containerd itself does not take it: %.200v", how, err)
		}
		for _, n := range w.Nodes {
			ask(t, n, request{registry: w.evil.Host(), path: repo + "/manifests/v1"})
			ask(t, n, request{registry: w.evil.Host(), path: repo + "/referrers/" + img.objects[0].digest.String()})
			for _, o := range img.objects {
				ask(t, n, request{method: http.MethodHead, registry: w.evil.Host(), path: repo + "/" + o.path})
			}
		}
	}
	return append(reached, w.stealAs(t, img, repos)...)
}

// stealAs tries to get all of an image in the names of repositories, and says by what they name it.
func (w *world) stealAs(t *testing.T, img *image, repos map[string]string) (reached []string) {
	t.Helper()
	for _, repo := range slices.Sorted(maps.Keys(repos)) {
		for _, what := range w.stolenAs(t, img, w.evil.Host(), repo, nobody()) {
			reached = append(reached, repos[repo]+": "+what)
		}
	}
	return reached
}

// settledTime is how long containerd must have had content until Kioo minds what it says of it, and some more.
const settledTime = 16 * time.Second

// TestAttackBForgotten: his index names a private manifest, and keeps it in containerd when the private image is
// removed. The node's Kioo has lost its memory, so that nobody knows any more whose content it was, but by what
// containerd says. He must not get it in his name.
func TestAttackBForgotten(t *testing.T) { defended(t, forgotten) }

func forgotten(t *testing.T, w *world) (reached []string) {
	n := w.Nodes[0]
	img := w.secret(t, 150_000)
	w.pullAnnounced(t, n, img, tenantA, passwordA)
	began := time.Now()
	repo := w.fresh("forgotten")
	own := describe(t, w.evil.Host(), repo, "v1", newImage(t, repo, 5_000))
	index := indexOf(t, descriptorOf(own.objects[0], "linux/amd64"), descriptorOf(img.objects[0], "plan9/mips"))
	image, err := evilregistry.Image(repo, "", own.Image)
	tag, terr := evilregistry.Manifest(repo, "v1", ocispec.MediaTypeImageIndex, index)
	if err := errors.Join(err, terr); err != nil {
		t.Fatal(err)
	}
	w.evil.rules(t, image, tag)
	pull(t, n, own.name(), "", "")
	err = n.Containerd.Remove(t.Context(), img.name())
	if err := errors.Join(err, n.StopKioo(), os.RemoveAll(n.DataDir()), n.StartKioo(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.waitMembers(t, n)
	left, err := n.Containerd.Ctr(t.Context(), "--namespace", "k8s.io", "content", "ls", "-q")
	if err != nil || !strings.Contains(left, img.objects[2].digest.String()) {
		t.Fatalf("containerd does not keep the layer: %v", err)
	}
	eventually(t, settleTime, "containerd has said whose it is", func() bool { return time.Since(began) > settledTime })
	for range 2 { // The first question has the node look.
		reached = append(reached, w.stealAs(t, img, map[string]string{repo: "an index that outlives the image"})...)
	}
	return reached
}

// TestAttackHAges: a member says of tags that they were confirmed in the future, or at a time that no number has. It
// wants that others run its image, by upstream-first and upstream-only.
func TestAttackHAges(t *testing.T) { defended(t, tagAges) }

func tagAges(t *testing.T, w *world) (reached []string) {
	var said []string
	for _, age := range []string{"-1", "-9223372036854775808", "18446744073709551615", "1e-9", "NaN", "0, 0", " "} {
		for _, tag := range []string{"latest", "only"} {
			img := w.push(t, w.public, w.fresh("aged"), tag, 5_000)
			theirs := describe(t, w.public.Host(), img.repo, tag, newImage(t, w.fresh("theirs"), 5_000))
			lies := w.bring(t, theirs)
			o := theirs.objects[0]
			w.member.lies(t, tagged(lies, img.name(), o, age))
			for _, n := range w.Nodes {
				a := ask(t, n, request{registry: img.registry, path: img.repo + "/manifests/" + tag})
				if a.header.Get("Docker-Content-Digest") == o.digest.String() {
					reached = append(reached, fmt.Sprintf("%s has the attacker's image for %s, which is %q old", n.Name, img.name(), age))
				}
				said = append(said, a.header.Get("Docker-Content-Digest"))
			}
		}
	}
	if slices.Contains(said, "") || len(said) == 0 || digest.Digest(said[0]).Validate() != nil {
		t.Errorf("the tags mean nothing: %q", said)
	}
	return reached
}

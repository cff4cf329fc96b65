package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// remote is an attacker's program as the attacker reaches it.
type remote struct {
	place *fleet.Node
	base  string
}

// do sends a value and reads one; both may be nil.
func (r *remote) do(ctx context.Context, method, what string, send, into any) error {
	body, err := json.Marshal(send)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.base+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := r.place.Client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) // Half of it may still say why.
		return fmt.Errorf("%s %s: %s: %s", method, what, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// rules sets what the attacker's registry answers until the end of the test.
func (e *evil) rules(t *testing.T, rules ...[]evilregistry.Rule) {
	t.Helper()
	var all []evilregistry.Rule
	for _, some := range rules {
		all = append(all, some...)
	}
	if err := errors.Join(e.do(t.Context(), http.MethodDelete, "seen", nil, nil), e.do(t.Context(), http.MethodPut, "rules", all, nil)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.do(context.Background(), http.MethodPut, "rules", []evilregistry.Rule{}, nil); err != nil {
			t.Error(err)
		}
	})
}

// seen is what the attacker's registry was asked.
func (e *evil) seen(t *testing.T) []evilregistry.Seen {
	t.Helper()
	resp, err := e.place.Get(t.Context(), e.base+"seen")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []evilregistry.Seen
	for lines := json.NewDecoder(resp.Body); ; {
		var one evilregistry.Seen
		if err := lines.Decode(&one); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

// lies has the member lie until the end of the test, and waits until all others have heard its announcements.
func (m *member) lies(t *testing.T, lies evilmember.Lies) {
	t.Helper()
	if err := m.do(t.Context(), http.MethodPut, "lies", lies, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.do(context.Background(), http.MethodPut, "lies", evilmember.Lies{}, nil); err != nil {
			t.Error(err)
		}
	})
	eventually(t, settleTime, "the others know what the member claims", func() bool {
		var state struct{ Members, Pending int }
		if err := m.do(t.Context(), http.MethodGet, "state", nil, &state); err != nil {
			t.Fatal(err)
		}
		return state.Members == 2 && state.Pending == 0
	})
}

// eventually waits until ok says so.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("after %v still not: %s", within, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return time.Since(start)
}

// request is one to a node's mirror, from the node.
type request struct {
	method        string // Default: GET.
	registry      string // Said by ns. Empty: not said.
	path          string // Below /v2/.
	authorization string
	header        map[string]string
	host          string // Default: the mirror's.
}

// answer is what came of it. Status 0 is none at all.
type answer struct {
	status int
	header http.Header
	body   []byte
	broken error // Why the body is not all there.
}

func (a answer) String() string { return fmt.Sprintf("%d, %d bytes", a.status, len(a.body)) }

// is tells whether the body is, to its end, what a digest names.
func (a answer) is(d digest.Digest) bool {
	return a.status/100 == 2 && a.broken == nil && d.Algorithm().FromBytes(a.body) == d
}

func ask(t *testing.T, n *fleet.Node, r request) answer {
	t.Helper()
	a, err := try(t.Context(), n, r)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return a
}

// try is ask for what runs beside the test.
func try(ctx context.Context, n *fleet.Node, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	u := "http://" + fleet.MirrorAddr + "/v2/" + r.path
	if r.registry != "" {
		u += "?ns=" + url.QueryEscape(r.registry)
	}
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, nil)
	if err != nil {
		return answer{}, err
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	if r.authorization != "" {
		req.Header.Set("Authorization", r.authorization)
	}
	if r.host != "" {
		req.Host = r.host
	}
	resp, err := n.Client().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	a.body, a.broken = io.ReadAll(resp.Body)
	return a, nil
}

// image is one that was pushed.
type image struct {
	registry string
	repo     string
	tag      string
	v1.Image
	desc v1.Descriptor
	// objects are what it consists of, manifest first: below its repository, "blobs/sha256:…".
	objects []object
}

type object struct {
	path      string
	digest    digest.Digest
	size      int64
	mediaType string
}

// name is the image's full name, for containerd.
func (i *image) name() string { return i.registry + "/" + i.repo + ":" + i.tag }

// layers are the image's layers.
func (i *image) layers() []object { return i.objects[2:] }

// describe lists what an image consists of.
func describe(t *testing.T, registry, repo, tag string, img v1.Image) *image {
	t.Helper()
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	i := &image{registry: registry, repo: repo, tag: tag, Image: img, desc: v1.Descriptor{
		MediaType: manifest.MediaType, Digest: hash, Size: size,
	}}
	i.objects = []object{{"manifests/" + hash.String(), digest.Digest(hash.String()), size, string(manifest.MediaType)}}
	for _, d := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		i.objects = append(i.objects, object{"blobs/" + d.Digest.String(), digest.Digest(d.Digest.String()), d.Size, string(d.MediaType)})
	}
	return i
}

// seed makes what is in an image another for each name.
func seed(name string) uint64 {
	var sum uint64
	for _, c := range name {
		sum = sum*31 + uint64(c)
	}
	return sum
}

// newImage makes an image without pushing it.
func newImage(t *testing.T, name string, layers ...int64) v1.Image {
	t.Helper()
	img, err := registrytest.NewImage(seed(name), v1.Platform{OS: "linux", Architecture: "amd64"}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// push pushes an image that nobody has seen before.
func (w *world) push(t *testing.T, s *side, repo, tag string, layers ...int64) *image {
	t.Helper()
	img := newImage(t, w.fresh(s.Host()+"/"+repo+":"+tag), layers...)
	if _, err := s.Push(t.Context(), repo+":"+tag, img); err != nil {
		t.Fatal(err)
	}
	return describe(t, s.Host(), repo, tag, img)
}

// secret pushes an image of tenant A's into a repository of its own.
func (w *world) secret(t *testing.T, layers ...int64) *image {
	t.Helper()
	return w.push(t, w.private, w.fresh(tenantA+"/app"), "v1", layers...)
}

// pull pulls as a pod of somebody, and wants it to work.
func pull(t *testing.T, n *fleet.Node, image, user, password string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	if _, err := n.Containerd.PullAs(ctx, image, user, password); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
}

// pulls tells whether a pull works, and why it does not.
func pulls(t *testing.T, n *fleet.Node, image, user, password string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	_, err := n.Containerd.PullAs(ctx, image, user, password)
	return err
}

// pullAnnounced pulls, and waits until the other members know.
func (w *world) pullAnnounced(t *testing.T, n *fleet.Node, i *image, user, password string) {
	t.Helper()
	before := w.announced(t, n)
	pull(t, n, i.name(), user, password)
	w.waitAnnounced(t, n, before+len(i.objects)+1) // And its tag.
}

// fetch has a node get all of an image by its mirror alone, past containerd, and waits until the others know.
func (w *world) fetch(t *testing.T, n *fleet.Node, i *image, authorization string) {
	t.Helper()
	before := w.announced(t, n)
	for _, o := range i.objects {
		a := ask(t, n, request{registry: i.registry, path: i.repo + "/" + o.path, authorization: authorization})
		if !a.is(o.digest) {
			t.Fatalf("%s: %s of %s: %v: %.300s", n.Name, o.path, i.name(), a, a.body)
		}
	}
	w.waitAnnounced(t, n, before+len(i.objects))
}

func (w *world) metrics(t *testing.T, n *fleet.Node) fleet.Metrics {
	t.Helper()
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (w *world) announced(t *testing.T, n *fleet.Node) int {
	t.Helper()
	return int(w.metrics(t, n).Sum("kioo_discovery_announced_keys"))
}

func (w *world) waitAnnounced(t *testing.T, n *fleet.Node, keys int) {
	t.Helper()
	eventually(t, settleTime, fmt.Sprintf("%s has announced %d keys", n.Name, keys), func() bool {
		m := w.metrics(t, n)
		return int(m.Sum("kioo_discovery_announced_keys")) >= keys && m.Sum("kioo_discovery_pending_keys") == 0
	})
}

// bearer gives the Authorization header with which somebody pulls from the private registry. Nobody has none to show.
func (w *world) bearer(t *testing.T, user, password, repo string) string {
	t.Helper()
	u := "http://" + netip.AddrPortFrom(w.Upstream.Addr, tokenPort).String() + "/token?" +
		url.Values{"service": {"registry.example.com"}, "scope": {"repository:" + repo + ":pull"}}.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := w.Nodes[0].Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var given struct{ Token string }
	if err := errors.Join(transport.CheckError(resp, http.StatusOK), json.NewDecoder(resp.Body).Decode(&given)); err != nil {
		t.Fatal(err)
	}
	return "Bearer " + given.Token
}

// outsiders are the Authorization headers of those who may not read an image of tenant A's.
func (w *world) outsiders(t *testing.T, i *image) map[string]string {
	t.Helper()
	return map[string]string{"nobody": "", "tenant B": w.bearer(t, tenantB, passwordB, tenantB+"/app-0"), "junk": "Bearer junk"}
}

// stolen asks all nodes for all of an image as some who may not read it, by its own name, and gives what they got.
func (w *world) stolen(t *testing.T, i *image, who map[string]string) (got []string) {
	t.Helper()
	return w.stolenAs(t, i, i.registry, i.repo, who)
}

// stolenAs does so in the name of some repository.
func (w *world) stolenAs(t *testing.T, i *image, registry, repo string, who map[string]string) (got []string) {
	t.Helper()
	for _, n := range w.Nodes {
		for name, authorization := range who {
			for _, o := range i.objects {
				a := ask(t, n, request{registry: registry, path: repo + "/" + o.path, authorization: authorization})
				if a.is(o.digest) {
					got = append(got, fmt.Sprintf("%s got %s on %s, in the name of %s/%s", name, o.path, n.Name, registry, repo))
				}
			}
		}
	}
	return got
}

// nobody is who brings no credentials.
func nobody() map[string]string { return map[string]string{"nobody": ""} }

// resume brings a registry back at the end of a test.
func (w *world) down(t *testing.T, stop func(), back func() error) (up func()) {
	t.Helper()
	stop()
	up = func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(up)
	return up
}

func (w *world) privateDown(t *testing.T) (up func()) {
	t.Helper()
	return w.down(t, w.Upstream.Stop, w.Upstream.Resume)
}

func (w *world) publicDown(t *testing.T) (up func()) {
	t.Helper()
	return w.down(t, w.public.sw.Stop, w.public.sw.Resume)
}

// breaks puts a hook before a registry until the end of the test.
func breaks(t *testing.T, s *side, hook registrytest.Hook) {
	t.Helper()
	s.Break(hook)
	t.Cleanup(func() { s.Break(nil) })
}

// renew gives the nodes' Kioos a program and empty data directories, and waits until they know each other.
func (w *world) renew(t *testing.T, program string) {
	t.Helper()
	for _, n := range w.Nodes {
		if err := errors.Join(n.StopKioo(), os.RemoveAll(n.DataDir())); err != nil {
			t.Fatal(err)
		}
		n.Program = program
	}
	for _, n := range w.Nodes {
		if err := n.StartKioo(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range w.Nodes {
		w.waitMembers(t, n)
	}
}

// restart restarts a node's Kioo.
func (w *world) restart(t *testing.T, n *fleet.Node) {
	t.Helper()
	if err := n.RestartKioo(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.waitMembers(t, n)
}

func (w *world) waitMembers(t *testing.T, n *fleet.Node) time.Duration {
	t.Helper()
	return eventually(t, time.Minute, n.Name+" knows the others", func() bool {
		return int(w.metrics(t, n).Sum("kioo_discovery_members", `state="live"`)) == len(w.Nodes)
	})
}

func lastOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// readLayer reads all of a layer.
func readLayer(layer v1.Layer) ([]byte, error) {
	in, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(in)
}

// holds tells whether a node's containerd has an image of which something has that digest.
func (w *world) holds(t *testing.T, n *fleet.Node, dgst string) bool {
	t.Helper()
	images, err := n.Containerd.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		for _, name := range append(i.RepoDigests, i.Id) {
			if strings.HasSuffix(name, dgst) {
				return true
			}
		}
	}
	return false
}

// put puts a manifest into a registry as it is.
func (w *world) put(t *testing.T, s *side, repo string, dgst digest.Digest, mediaType string, body []byte) {
	t.Helper()
	u := "http://" + s.DirectHost() + "/v2/" + repo + "/manifests/" + dgst.String()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := w.direct.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("put %s into %s: %s", dgst, repo, resp.Status)
	}
}

package prefetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shelf is a mirror that holds everything that it has.
type shelf struct {
	mu    sync.Mutex
	by    map[string][]byte // By tag or digest.
	asked []string
}

func (s *shelf) put(names ...any) digest.Digest {
	body := names[len(names)-1].([]byte)
	d := digest.FromBytes(body)
	s.by[d.String()] = body
	for _, name := range names[:len(names)-1] {
		s.by[name.(string)] = body
	}
	return d
}

func (s *shelf) answer(ref reference.Reference) (*mirror.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, ref.Object())
	body, ok := s.by[ref.Object()]
	if !ok {
		return nil, fmt.Errorf("%s: %w", ref, content.ErrNotFound)
	}
	return &mirror.Answer{
		Blob: content.Bytes{Body: body}, Descriptor: ocispec.Descriptor{Digest: digest.FromBytes(body), Size: int64(len(body))},
	}, nil
}

func (s *shelf) Manifest(_ context.Context, ref reference.Reference, _ upstream.Origin) (*mirror.Answer, error) {
	return s.answer(ref)
}

func (s *shelf) Blob(_ context.Context, ref reference.Reference, _ bool, _ upstream.Origin) (*mirror.Answer, error) {
	return s.answer(ref)
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// build makes an image of two layers for each platform, and an index of them below another index.
func build(t *testing.T, s *shelf, list ...string) {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	for _, name := range list {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{Digest: s.put([]byte("{}")), Size: 2}}
		for _, layer := range []string{"base", "app of " + name} {
			m.Layers = append(m.Layers, ocispec.Descriptor{Digest: s.put([]byte(layer)), Size: int64(len(layer))})
		}
		p := platforms.MustParse(name)
		index.Manifests = append(index.Manifests, ocispec.Descriptor{Digest: s.put(encode(t, m)), Platform: &p})
	}
	s.put("v1", encode(t, index))
}

func pull(s *shelf, platform, image string) (Progress, error) {
	p := New(Config{Backend: s, Platform: platforms.Only(platforms.MustParse(platform)), Log: logr.Discard()})
	var last Progress
	err := p.Pull(context.Background(), image, func(now Progress) { last = now })
	return last, err
}

func TestPull(t *testing.T) {
	s := &shelf{by: map[string][]byte{}}
	build(t, s, "linux/amd64", "linux/arm64", "linux/arm/v7", "windows/amd64")
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		s.asked = nil
		last, err := pull(s, platform, "quay.io/a:v1")
		size := int64(len("{}base") + len("app of "+platform))
		if err != nil || !last.Done || last.Error != "" || last.Bytes != size || last.Total != size || last.Digest != digest.FromBytes(s.by["v1"]).String() {
			t.Errorf("%s: %+v, %v", platform, last, err)
		}
		for _, want := range []string{"{}", "base", "app of " + platform} {
			if !slices.Contains(s.asked, digest.FromString(want).String()) {
				t.Errorf("%s: %q was not brought in", platform, want)
			}
		}
		if len(s.asked) != 5 {
			t.Errorf("%s: asked for %d things", platform, len(s.asked))
		}
	}
}

func TestPullFails(t *testing.T) {
	whole := &shelf{by: map[string][]byte{}}
	build(t, whole, "linux/amd64")
	whole.put("deep", []byte("{}"))
	for range maxDepth + 1 {
		whole.put("deep", encode(t, ocispec.Index{Manifests: []ocispec.Descriptor{
			{Digest: digest.FromBytes(whole.by["deep"]), Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}}}))
	}
	whole.put("strange", []byte("no manifest"))
	for _, tt := range []struct{ platform, image, lost, want string }{
		{"linux/amd64", "quay.io/a:none", "", "not held"},
		{"linux/s390x", "quay.io/a:v1", "", "platform"},
		{"linux/amd64", "quay.io/a:v1", "base", "not held"},
		{"linux/amd64", "quay.io/a:deep", "", "too deeply"},
		{"linux/amd64", "quay.io/a:strange", "", "parse"},
		{"linux/amd64", "A B", "", "reference"},
	} {
		s := &shelf{by: maps.Clone(whole.by)}
		delete(s.by, digest.FromString(tt.lost).String())
		last, err := pull(s, tt.platform, tt.image)
		if err == nil || !last.Done || last.Error != err.Error() || !strings.Contains(last.Error, tt.want) {
			t.Errorf("%+v: %+v, %v", tt, last, err)
		}
	}
	p := New(Config{Backend: whole, Check: func(reference.Repository) error { return mirror.ErrDenied }, Log: logr.Discard()})
	if err := p.Pull(t.Context(), "quay.io/a:v1", func(Progress) {}); !errors.Is(err, mirror.ErrDenied) || len(whole.asked) != 0 {
		t.Errorf("%v, asked %v", err, whole.asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New(Config{Backend: whole, Platform: platforms.All, Log: logr.Discard()}).Pull(ctx, "quay.io/a:v1", func(Progress) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestChoose(t *testing.T) {
	var nodes []Node
	for i := range 100 {
		nodes = append(nodes, Node{ID: fmt.Sprint("node-", i), Zone: string(rune('a' + i%4))})
	}
	counts := map[string]int{}
	for i := range 1000 {
		image := fmt.Sprint("image-", i)
		chosen := Choose(image, []string{"a", "b"}, 3, nodes)
		backwards := slices.Clone(nodes)
		slices.Reverse(backwards)
		if again := Choose(image, []string{"a", "b"}, 3, backwards); len(chosen) != 3 || !slices.Equal(chosen, again) {
			t.Fatalf("%s: %v and %v", image, chosen, again)
		}
		for _, n := range chosen {
			counts[n.ID]++
			if n.Zone != "a" && n.Zone != "b" {
				t.Fatalf("%s is in zone %s", n.ID, n.Zone)
			}
		}
		// A node that leaves takes nothing from the others' places.
		left := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n == chosen[0] })
		if after := Choose(image, []string{"a", "b"}, 3, left); after[0] != chosen[1] || after[1] != chosen[2] {
			t.Fatalf("%s: %v became %v", image, chosen, after)
		}
	}
	for _, n := range nodes { // 60 each on average; five standard deviations are 38.
		if want := n.Zone == "a" || n.Zone == "b"; want && (counts[n.ID] < 22 || counts[n.ID] > 98) {
			t.Errorf("%s is chosen %d times", n.ID, counts[n.ID])
		}
	}
	if n := len(Choose("x", nil, 0, nodes)); n != 100 {
		t.Errorf("all of them are %d", n)
	}
	if n := len(Choose("x", nil, 1000, nodes)); n != 100 {
		t.Errorf("more than there are: %d", n)
	}
}

func TestGate(t *testing.T) {
	g := NewGate(1)
	leave, err := g.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enter(); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	leave()
	if _, err := g.Enter(); err != nil {
		t.Error(err)
	}
}

package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/containerdtest"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestConformance(t *testing.T) {
	eachWay(t, func(t *testing.T, version containerdtest.Version, mounted bool) {
		contenttest.Suite(t, func(t *testing.T) contenttest.Fixture {
			c := containerdtest.New(t, containerdtest.Config{Version: version})
			if err := c.CreateNamespace(t.Context(), containerdtest.Namespace); err != nil {
				t.Fatal(err)
			}
			s := ready(t, configFor(t, c, mounted))
			put := func(t *testing.T, _ string, body []byte) {
				t.Helper()
				dgst, err := c.Put(t.Context(), containerdtest.Namespace, body)
				if err != nil {
					t.Fatal(err)
				}
				if mounted {
					eventually(t, "the blob is noticed", func() bool { return s.Has(dgst) })
				}
			}
			return contenttest.Fixture{
				Store: s,
				Put:   put,
				Remove: func(t *testing.T, dgst digest.Digest) {
					t.Helper()
					if err := c.Collect(t.Context(), containerdtest.Namespace, dgst); err != nil {
						t.Fatal(err)
					}
				},
				SetTag: func(t *testing.T, ref reference.Reference, tag content.Tag) {
					t.Helper()
					if err := c.SetImage(t.Context(), containerdtest.Namespace, ref.String(), tag.Target); err != nil {
						t.Fatal(err)
					}
					eventually(t, "the tag is noticed", func() bool {
						got, err := s.Tag(t.Context(), ref)
						return err == nil && got.Target.Digest == tag.Target.Digest
					})
				},
			}
		})
	})
}

// TestFilesAreFiles holds on to the type that goes through the kernel to the socket, as the cache's tests prove.
func TestFilesAreFiles(t *testing.T) {
	c := containerdtest.New(t, containerdtest.Config{})
	dgst, err := c.Put(t.Context(), containerdtest.Namespace, []byte("a layer"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := containerd.New(configFor(t, c, true))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Open(t.Context(), dgst) // Before Run, even.
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, ok := b.(*content.File); !ok {
		t.Errorf("a blob of the directory is a %T", b)
	}
}

func TestInvalidConfigs(t *testing.T) {
	for name, cfg := range map[string]containerd.Config{
		"no socket":          {},
		"relative socket":    {Address: "containerd.sock"},
		"relative directory": {Address: "/s", ContentDir: "content"},
		"namespace":          {Address: "/s", Namespaces: []string{`x",topic=="`}},
		"empty namespace":    {Address: "/s", Namespaces: []string{""}},
		"interval":           {Address: "/s", Reconcile: -1},
		"bound":              {Address: "/s", MaxBlobs: -1},
	} {
		if _, err := containerd.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := containerd.New(containerd.Config{Address: "unix:///run/containerd/containerd.sock"}); err != nil {
		t.Errorf("socket as a URL: %v", err)
	}
}

// TestTagRecords changes image records in every way that changes what a tag means.
func TestTagRecords(t *testing.T) {
	eachWay(t, func(t *testing.T, version containerdtest.Version, mounted bool) {
		const other = "other"
		c := containerdtest.New(t, containerdtest.Config{Version: version})
		for _, namespace := range []string{containerdtest.Namespace, other} {
			if err := c.CreateNamespace(t.Context(), namespace); err != nil {
				t.Fatal(err)
			}
		}
		manifest := func(text string) ocispec.Descriptor {
			body := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[],` +
				`"annotations":{"text":"` + text + `"}}`)
			return ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(body), Size: int64(len(body)), Data: body,
			}
		}
		put := func(desc ocispec.Descriptor) {
			t.Helper()
			for _, namespace := range []string{containerdtest.Namespace, other} {
				if _, err := c.Put(t.Context(), namespace, desc.Data); err != nil {
					t.Fatal(err)
				}
			}
		}
		set := func(namespace, name string, desc ocispec.Descriptor) {
			t.Helper()
			if err := c.SetImage(t.Context(), namespace, name, desc); err != nil {
				t.Fatal(err)
			}
		}
		first, second, absent := manifest("first"), manifest("second"), manifest("absent")
		put(first)
		put(second)
		// What was there before the store, and a name without a registry, by ID and by digest.
		set(containerdtest.Namespace, "docker.io/nginx:1", first)
		set(containerdtest.Namespace, "bare:1", first)
		set(containerdtest.Namespace, first.Digest.String(), first)
		set(containerdtest.Namespace, "docker.io/library/nginx@"+first.Digest.String(), first)

		cfg := configFor(t, c, mounted)
		cfg.Namespaces = []string{containerdtest.Namespace, other}
		s := ready(t, cfg)
		l := listen(t, s)
		nginx := parse(t, "docker.io/library/nginx:1")
		l.until(t, "nginx means the first", func() bool { return l.tags[nginx] == first.Digest })
		if len(l.tags) != 1 {
			t.Errorf("tags %v, want nginx alone", l.tags)
		}

		// The newest record counts, whoever's it is and however it writes the name.
		set(other, "index.docker.io/library/nginx:1", second)
		l.until(t, "nginx means the second", func() bool { return l.tags[nginx] == second.Digest })
		set(containerdtest.Namespace, "docker.io/nginx:1", first)
		l.until(t, "nginx means the first again", func() bool { return l.tags[nginx] == first.Digest })

		// An image record does not prove that its manifest is there.
		set(containerdtest.Namespace, "docker.io/nginx:1", absent)
		l.until(t, "nginx means what is held", func() bool { return l.tags[nginx] == second.Digest })
		put(absent)
		l.until(t, "nginx means the newest", func() bool { return l.tags[nginx] == absent.Digest })

		for namespace, name := range map[string]string{
			containerdtest.Namespace: "docker.io/nginx:1", other: "index.docker.io/library/nginx:1",
		} {
			if err := c.DeleteImage(t.Context(), namespace, name); err != nil {
				t.Fatal(err)
			}
		}
		l.until(t, "nginx means nothing", func() bool { return l.tags[nginx] == "" })
		if tag, err := s.Tag(t.Context(), nginx); !errors.Is(err, content.ErrNotFound) {
			t.Errorf("nginx means %v, %v", tag, err)
		}
	})
}

// TestConfirmed looks for the record's own time, in a clock that was set back.
func TestConfirmed(t *testing.T) {
	c := containerdtest.New(t, containerdtest.Config{})
	body := []byte(`{"schemaVersion":2,"manifests":[]}`)
	dgst, err := c.Put(t.Context(), containerdtest.Namespace, body)
	if err != nil {
		t.Fatal(err)
	}
	const name = "registry.example.com/app:v1"
	before := time.Now()
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: dgst, Size: int64(len(body))}
	if err := c.SetImage(t.Context(), containerdtest.Namespace, name, desc); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	for what, now := range map[string]time.Time{"right": after, "set back": before.Add(-time.Hour)} {
		cfg := configFor(t, c, true)
		cfg.Now = func() time.Time { return now }
		s := ready(t, cfg)
		tag, err := s.Tag(t.Context(), parse(t, name))
		if err != nil {
			t.Fatal(err)
		}
		since, held := s.Held(dgst)
		for _, got := range []time.Time{tag.Confirmed, since} {
			if got.After(now) || what == "right" && got.Before(before.Add(-time.Minute)) || !held {
				t.Errorf("clock %s: confirmed %v, held since %v; written between %v and %v", what, tag.Confirmed, since, before, after)
			}
		}
	}
}

// TestHungContainerd asks a containerd that accepts requests and answers none.
func TestHungContainerd(t *testing.T) {
	c := containerdtest.New(t, containerdtest.Config{})
	body := contenttest.Body(1, 8<<20) // More than what may be on its way.
	dgst, err := c.Put(t.Context(), containerdtest.Namespace, body)
	if err != nil {
		t.Fatal(err)
	}
	s := ready(t, configFor(t, c, false))
	b, err := s.Open(t.Context(), dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if n, err := b.CopyRange(short, io.Discard, 0, b.Size()); !errors.Is(err, context.DeadlineExceeded) || n >= b.Size() {
		t.Errorf("CopyRange gave %d, %v", n, err)
	}
	if _, err := s.Open(short, dgst); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open gave %v", err)
	}
	if !s.Has(dgst) {
		t.Error("the blob is taken to be gone")
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if _, err := b.CopyRange(t.Context(), &all, 0, b.Size()); err != nil || !bytes.Equal(all.Bytes(), body) {
		t.Errorf("after it went on, %d bytes of %d, or others: %v", all.Len(), len(body), err)
	}
}

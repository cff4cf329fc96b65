package clienttest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/plugins/content/local"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// runtime is containerd's pull code with a configuration directory as a node has it.
type runtime struct {
	resolver remotes.Resolver
	requests *recorder
}

// newRuntime configures the mirror for all registries, in the only way that all versions of containerd understand.
func newRuntime(t *testing.T, mirror, capabilities string) *runtime {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "_default"), 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("[host.%q]\n  capabilities = [%s]\n", "http://"+mirror, capabilities)
	if err := os.WriteFile(filepath.Join(dir, "_default", "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	options := config.HostOptions{
		HostDir: config.HostDirFromRoot(dir),
		UpdateClient: func(client *http.Client) error {
			tr := client.Transport.(*http.Transport)
			t.Cleanup(tr.CloseIdleConnections)
			client.Transport = &recording{tr, rec}
			return nil
		},
	}
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(t.Context(), options)})
	return &runtime{resolver: resolver, requests: rec}
}

// recorder notes where containerd went.
type recorder struct {
	mu   sync.Mutex
	urls []string
}

type recording struct {
	http.RoundTripper
	rec *recorder
}

func (r *recording) RoundTrip(req *http.Request) (*http.Response, error) {
	r.rec.mu.Lock()
	r.rec.urls = append(r.rec.urls, req.URL.String())
	r.rec.mu.Unlock()
	return r.RoundTripper.RoundTrip(req)
}

// check fails if containerd went anywhere but to the mirror, or there without ns.
func (r *recorder) check(t *testing.T, mirror string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.urls) == 0 {
		t.Error("containerd asked nothing")
	}
	for _, url := range r.urls {
		if !strings.HasPrefix(url, "http://"+mirror+"/v2/"+repository+"/") || !strings.Contains(url, "ns="+registryName) {
			t.Errorf("containerd asked %s", url)
		}
	}
}

// pull fetches all that an image consists of into a content store and returns the store.
func (r *runtime) pull(ctx context.Context, t *testing.T, ref string) (content.Store, ocispec.Descriptor) {
	t.Helper()
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name, desc, err := r.resolver.Resolve(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	r.fetch(ctx, t, store, name, desc)
	return store, desc
}

func (r *runtime) fetch(ctx context.Context, t *testing.T, store content.Store, name string, desc ocispec.Descriptor) {
	t.Helper()
	fetcher, err := r.resolver.Fetcher(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	handler := images.Handlers(remotes.FetchHandler(store, fetcher), images.ChildrenHandler(store))
	if err := images.Dispatch(ctx, handler, nil, desc); err != nil {
		t.Fatal(err)
	}
}

// checkStore hashes everything in a content store and compares it with what must be there.
func checkStore(ctx context.Context, t *testing.T, store content.Store, want []v1.Descriptor) {
	t.Helper()
	held := map[digest.Digest]int64{}
	err := store.Walk(ctx, func(info content.Info) error {
		reader, err := store.ReaderAt(ctx, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		if err != nil {
			return err
		}
		defer reader.Close()
		got, err := info.Digest.Algorithm().FromReader(content.NewReader(reader))
		if err != nil {
			return err
		}
		if got != info.Digest {
			t.Errorf("%s has digest %s", info.Digest, got)
		}
		held[info.Digest] = info.Size
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(held) != len(want) {
		t.Errorf("the store holds %d blobs, want %d", len(held), len(want))
	}
	for _, desc := range want {
		if size, ok := held[digest.Digest(desc.Digest.String())]; !ok || size != desc.Size {
			t.Errorf("the store holds %d bytes of %v, want %d", size, desc.Digest, desc.Size)
		}
	}
}

func TestContainerd(t *testing.T) {
	eachUpstream(t, func(t *testing.T, n *node) {
		want := append([]v1.Descriptor{n.image.index}, n.image.manifests...)
		want = append(want, n.image.blobs...)
		n.pullTwice(t, n.image.blobs, func(t *testing.T) {
			r := newRuntime(t, n.host, `"pull", "resolve"`)
			store, desc := r.pull(t.Context(), t, registryName+"/"+repository+":"+tag)
			if desc.Digest.String() != n.image.index.Digest.String() {
				t.Errorf("the tag is %s, want %v", desc.Digest, n.image.index.Digest)
			}
			checkStore(t.Context(), t, store, want)
			r.requests.check(t, n.host)
		})
	})
}

// TestContainerdByDigest pulls without any tag, as a Deployment does that pins its images.
func TestContainerdByDigest(t *testing.T) {
	n := newNode(t, upstreams["token"])
	want := append([]v1.Descriptor{n.image.index}, n.image.manifests...)
	want = append(want, n.image.blobs...)
	n.pullTwice(t, n.image.blobs, func(t *testing.T) {
		r := newRuntime(t, n.host, `"pull", "resolve"`)
		store, _ := r.pull(t.Context(), t, registryName+"/"+repository+"@"+n.image.index.Digest.String())
		checkStore(t.Context(), t, store, want)
		r.requests.check(t, n.host)
	})
}

func TestContainerdReferrers(t *testing.T) {
	eachUpstream(t, func(t *testing.T, n *node) {
		// Nothing but referrers needs the third capability, and old versions refuse it.
		r := newRuntime(t, n.host, `"pull", "resolve", "referrers"`)
		name, _, err := r.resolver.Resolve(t.Context(), registryName+"/"+repository+":"+tag)
		if err != nil {
			t.Fatal(err)
		}
		fetcher, err := r.resolver.Fetcher(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		subject := digest.Digest(n.image.index.Digest.String())
		referrers := func(types ...string) []ocispec.Descriptor {
			t.Helper()
			descs, err := fetcher.(remotes.ReferrersFetcher).FetchReferrers(t.Context(), subject, remotes.WithReferrerArtifactTypes(types...))
			if err != nil {
				t.Fatal(err)
			}
			return descs
		}
		if all := referrers(); len(all) != 2 {
			t.Errorf("referrers %+v, want two", all)
		}
		signatures := referrers(signatureType)
		if len(signatures) != 1 || signatures[0].Digest.String() != n.image.signature.Digest.String() {
			t.Fatalf("signatures %+v, want %v", signatures, n.image.signature.Digest)
		}
		if none := referrers("application/vnd.example.other"); len(none) != 0 {
			t.Errorf("referrers of a type that nothing has: %+v", none)
		}
		store, err := local.NewStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		r.fetch(t.Context(), t, store, name, signatures[0])
		checkArtifact(t.Context(), t, store, n.image.signature.Descriptor)
		r.requests.check(t, n.host)
	})
}

// checkArtifact wants an artifact's manifest in a store, and all that the manifest lists, with the right digests.
func checkArtifact(ctx context.Context, t *testing.T, store content.Store, artifact v1.Descriptor) {
	t.Helper()
	children, err := images.Children(ctx, store, ocispec.Descriptor{
		MediaType: string(artifact.MediaType), Digest: digest.Digest(artifact.Digest.String()), Size: artifact.Size,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []v1.Descriptor{artifact}
	for _, child := range children {
		hash, err := v1.NewHash(child.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, v1.Descriptor{Digest: hash, Size: child.Size})
	}
	if len(want) != 3 {
		t.Errorf("the artifact has %d children, want its configuration and its payload", len(want)-1)
	}
	checkStore(ctx, t, store, want)
}

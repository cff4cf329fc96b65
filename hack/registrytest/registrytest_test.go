package registrytest_test

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// options use connections of their own, so that none is left when a test looks for leaks.
func options(t *testing.T, auth authn.Authenticator) []remote.Option {
	tr := remote.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	return []remote.Option{remote.WithContext(t.Context()), remote.WithAuth(auth), remote.WithTransport(tr)}
}

func push(t *testing.T, r *registrytest.Registry, to string, what remote.Taggable, err error) v1.Descriptor {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	desc, err := r.Push(t.Context(), to, what)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestPushAndPull(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthNone, registrytest.AuthToken, registrytest.AuthBasic} {
		t.Run(auth.String(), func(t *testing.T) {
			r := registrytest.New(t, registrytest.Config{Auth: auth})
			index, err := registrytest.NewIndex(1, 100_000, 3_000)
			desc := push(t, r, "org/app:v1", index, err)
			artifact, err := registrytest.NewArtifact("application/vnd.example.signature", desc, []byte("signed"))
			sig := push(t, r, "org/app:signature", artifact, err)

			got, err := remote.Index(parse(t, r.Host()+"/org/app:v1"), options(t, r.Authenticator())...)
			if err != nil {
				t.Fatal(err)
			}
			if digest, err := got.Digest(); err != nil || digest != desc.Digest {
				t.Errorf("pulled %v, %v; pushed %v", digest, err, desc.Digest)
			}
			checkIndex(t, got)
			digest := parse(t, r.Host()+"/org/app@"+desc.Digest.String()).(name.Digest)
			referrers, err := remote.Referrers(digest, options(t, r.Authenticator())...)
			if err != nil {
				t.Fatal(err)
			}
			manifest, err := referrers.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != sig.Digest ||
				manifest.Manifests[0].ArtifactType != "application/vnd.example.signature" {
				t.Errorf("referrers %+v, want the signature %v", manifest.Manifests, sig.Digest)
			}
			checkStrangers(t, r, auth)
		})
	}
}

// checkIndex reads all that an index refers to; the client checks the digests.
func checkIndex(t *testing.T, index v1.ImageIndex) {
	t.Helper()
	if err := validate.Index(index, validate.Fast); err != nil {
		t.Errorf("pulled index: %v", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range manifest.Manifests {
		img, err := index.Image(desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		registrytest.CheckLayers(t, img)
	}
}

func checkStrangers(t *testing.T, r *registrytest.Registry, auth registrytest.Auth) {
	t.Helper()
	want := http.StatusOK
	if auth != registrytest.AuthNone {
		want = http.StatusUnauthorized
	}
	if issued := r.Tokens(); (issued > 0) != (auth == registrytest.AuthToken) {
		t.Errorf("%d tokens were issued with authentication %v", issued, auth)
	}
	for _, stranger := range []authn.Authenticator{authn.Anonymous, &authn.Basic{Username: "kioo", Password: "wrong"}} {
		_, err := remote.Head(parse(t, r.Host()+"/org/app:v1"), options(t, stranger)...)
		if got := statusOf(err); got != want {
			t.Errorf("stranger %v got %d, %v; want %d", stranger, got, err, want)
		}
	}
}

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if terr, ok := errors.AsType[*transport.Error](err); ok {
		return terr.StatusCode
	}
	return 0
}

func TestAnonymousMayOnlyPull(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken, Anonymous: true})
	img, err := registrytest.NewImage(2, v1.Platform{OS: "linux", Architecture: "amd64"}, 5_000)
	push(t, r, "org/app:v1", img, err)
	ref := parse(t, r.Host()+"/org/app:v1")
	if _, err := remote.Head(ref, options(t, authn.Anonymous)...); err != nil {
		t.Errorf("anonymous pull: %v", err)
	}
	// An image of which nothing is there yet, so that what is refused is the start of an upload: the client sends it again
	// with a new token, which it can't with what has a body.
	other, err := registrytest.NewImage(3, v1.Platform{OS: "linux", Architecture: "amd64"}, 5_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Tag("v2"), other, options(t, authn.Anonymous)...); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("anonymous push: %v, want 401", err)
	}
}

func TestCounts(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	img, err := registrytest.NewImage(3, v1.Platform{OS: "linux", Architecture: "amd64"}, 1_000_000)
	push(t, r, "org/app:v1", img, err)
	if n := len(r.Requests()); n != 0 {
		t.Errorf("the push was counted as %d requests", n)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(ranges string, want int64) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+"/v2/org/app/blobs/"+digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", ranges)
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); n != want || err != nil {
			t.Errorf("range %q: %d bytes, %v; want %d", ranges, n, err, want)
		}
	}
	fetch("", 1_000_000)
	fetch("bytes=10-19", 10)
	if got := r.BlobBytes(digest.String()); got != 1_000_010 {
		t.Errorf("counted %d bytes of the blob, want 1000010", got)
	}
	requests := r.BlobRequests("")
	if len(requests) != 2 || requests[0].Status != http.StatusOK || requests[1].Status != http.StatusPartialContent ||
		requests[1].Range() != "bytes=10-19" {
		t.Errorf("requests %+v", requests)
	}
	if n := len(r.ManifestRequests("")); n != 0 {
		t.Errorf("%d requests for manifests, want none", n)
	}
	r.Forget()
	if n := len(r.Requests()); n != 0 {
		t.Errorf("%d requests after Forget", n)
	}
}

func TestHooksAndStop(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	get := func() (int, int64, time.Duration, error) {
		start := time.Now()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(r.URL() + "/v2/")
		if err != nil {
			return 0, 0, time.Since(start), err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, n, time.Since(start), err
	}
	r.Break(registrytest.Answer(http.StatusTooManyRequests))
	if status, _, _, err := get(); status != http.StatusTooManyRequests || err != nil {
		t.Errorf("Answer: %d, %v", status, err)
	}
	r.Break(registrytest.Only(func(r *http.Request) bool { return r.URL.Path != "/v2/" }, registrytest.Answer(http.StatusTeapot)))
	if status, _, _, err := get(); status != http.StatusOK || err != nil {
		t.Errorf("Only: %d, %v", status, err)
	}
	r.Break(registrytest.Delay(50 * time.Millisecond))
	if status, _, took, err := get(); status != http.StatusOK || err != nil || took < 50*time.Millisecond {
		t.Errorf("Delay: %d after %v, %v", status, took, err)
	}
	r.Break(registrytest.Throttle(20)) // The answer is {}: two bytes, the second one 50 ms after the first.
	if status, n, took, err := get(); status != http.StatusOK || n != 2 || err != nil || took < 50*time.Millisecond {
		t.Errorf("Throttle: %d, %d bytes after %v, %v", status, n, took, err)
	}
	r.Break(nil)
	r.Stop()
	if status, _, _, err := get(); err == nil {
		t.Errorf("stopped: %d, want a refused connection", status)
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if status, _, _, err := get(); status != http.StatusOK || err != nil {
		t.Errorf("resumed: %d, %v", status, err)
	}
}

func TestLayersAreArchives(t *testing.T) {
	for _, size := range []int64{2048, 2049, 100_000, 1 << 20} {
		img, err := registrytest.NewImage(4, v1.Platform{OS: "linux", Architecture: "amd64"}, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img, validate.Fast); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		registrytest.CheckLayers(t, img)
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := layers[0].Size(); got != size || err != nil {
			t.Errorf("layer of %d bytes, %v; want %d", got, err, size)
		}
		rc, err := layers[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(rc)
		hdr, err := archive.Next()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, archive); n != hdr.Size || err != nil {
			t.Errorf("size %d: file of %d bytes, %v; want %d", size, n, err, hdr.Size)
		}
		if _, err := archive.Next(); err != io.EOF {
			t.Errorf("size %d: the archive ends with %v", size, err)
		}
	}
	if _, err := registrytest.NewImage(4, v1.Platform{}, 2047); err == nil {
		t.Error("a layer without room for an archive was made")
	}
}

func TestSeedsDecide(t *testing.T) {
	digest := func(seed uint64) v1.Hash {
		index, err := registrytest.NewIndex(seed, 4_000)
		if err != nil {
			t.Fatal(err)
		}
		desc, err := partial.Descriptor(index)
		if err != nil {
			t.Fatal(err)
		}
		return desc.Digest
	}
	if first, again := digest(7), digest(7); first != again {
		t.Error("the same seed made two images")
	}
	if digest(7) == digest(8) {
		t.Error("two seeds made the same image")
	}
}

package clienttest

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/registrytest"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/daemon"
)

const (
	registryName = "registry.example.com"
	repository   = "org/team/app"
	tag          = "v1"

	signatureType = "application/vnd.example.signature"
	sbomType      = "application/vnd.example.sbom"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstreams are the kinds of upstream that each client pulls from. Kioo has the credentials, the client has none.
var upstreams = map[string]registrytest.Config{
	"open":      {Auth: registrytest.AuthNone},
	"token":     {Auth: registrytest.AuthToken},
	"anonymous": {Auth: registrytest.AuthToken, Anonymous: true},
	"basic":     {Auth: registrytest.AuthBasic},
}

// node is a running Kioo, its upstream, and what was pushed there.
type node struct {
	host     string // the mirror's
	upstream *registrytest.Registry
	image    fixture
}

// newNode runs both, with an image that has been pulled by nobody.
func newNode(t *testing.T, cfg registrytest.Config) *node {
	t.Helper()
	return newNodeWith(t, cfg, func(*config.Config) {})
}

// newNodeWith does so with a configuration that is adjusted.
func newNodeWith(t *testing.T, cfg registrytest.Config, adjust func(*config.Config)) *node {
	t.Helper()
	up := registrytest.New(t, cfg)
	n := &node{upstream: up, image: pushFixture(t, up)}
	kioo := kiootest.Config(t.TempDir(), map[string]string{registryName: up.URL()})
	if username, _ := up.Credentials(); username != "" && !cfg.Anonymous {
		file, err := up.DockerConfig(t.TempDir(), up.Host())
		if err != nil {
			t.Fatal(err)
		}
		kioo.Credentials.DockerConfig = file
	}
	adjust(kioo)
	d, err := daemon.New(daemon.Config{Config: kioo, Log: logger(t), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	n.host = d.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the daemon ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the daemon did not end")
		}
	})
	select {
	case <-d.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the daemon is not ready")
	}
	return n
}

// logger keeps Kioo's log for a test that fails.
func logger(t *testing.T) logr.Logger {
	lines := make(chan string, 1000)
	t.Cleanup(func() {
		for t.Failed() && len(lines) > 0 {
			t.Log("kioo: " + <-lines)
		}
	})
	return funcr.New(func(prefix, args string) {
		select {
		case lines <- prefix + " " + args:
		default: // More than anybody reads.
		}
	}, funcr.Options{Verbosity: 1, LogTimestamp: true})
}

// fixture is a multi-platform image and what refers to it.
type fixture struct {
	index     v1.Descriptor
	manifests []v1.Descriptor // of linux/amd64 and linux/arm64
	blobs     []v1.Descriptor // of all platforms
	amd64     []v1.Descriptor // of linux/amd64 alone
	signature artifact
	sbom      artifact
}

// artifact is an artifact's manifest and what it consists of.
type artifact struct {
	v1.Descriptor
	blobs []v1.Descriptor
}

func pushFixture(t *testing.T, up *registrytest.Registry) fixture {
	t.Helper()
	index, err := registrytest.NewIndex(11, 300_001, 3<<20, 5_000_000)
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{}
	if f.index, err = up.Push(t.Context(), repository+":"+tag, index); err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	f.manifests = manifest.Manifests
	for _, desc := range f.manifests {
		img, err := index.Image(desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		blobs := blobsOf(t, img)
		if desc.Platform.Architecture == "amd64" {
			f.amd64 = blobs
		}
		f.blobs = append(f.blobs, blobs...)
	}
	f.signature = pushArtifact(t, up, signatureType, f.index)
	f.sbom = pushArtifact(t, up, sbomType, f.index)
	return f
}

func blobsOf(t *testing.T, img v1.Image) []v1.Descriptor {
	t.Helper()
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return append([]v1.Descriptor{manifest.Config}, manifest.Layers...)
}

func pushArtifact(t *testing.T, up *registrytest.Registry, artifactType string, subject v1.Descriptor) artifact {
	t.Helper()
	img, err := registrytest.NewArtifact(artifactType, subject, []byte("the payload of "+artifactType))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := partial.Descriptor(img)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Push(t.Context(), repository+"@"+desc.Digest.String(), img); err != nil {
		t.Fatal(err)
	}
	return artifact{*desc, blobsOf(t, img)}
}

// checkOnce fails if upstream has sent one of these blobs more or less than once, or in more than one request.
func (n *node) checkOnce(t *testing.T, blobs []v1.Descriptor) {
	t.Helper()
	for _, blob := range blobs {
		digest := blob.Digest.String()
		if sent := n.upstream.BlobBytes(digest); sent != blob.Size {
			t.Errorf("upstream sent %d bytes of %s, which has %d", sent, digest, blob.Size)
		}
		if requests := answered(n.upstream.BlobRequests(digest)); len(requests) != 1 {
			t.Errorf("upstream was asked for %s %d times: %+v", digest, len(requests), requests)
		}
	}
}

// answered leaves out the requests that only met a challenge.
func answered(requests []registrytest.Request) []registrytest.Request {
	var kept []registrytest.Request
	for _, r := range requests {
		if r.Status != http.StatusUnauthorized {
			kept = append(kept, r)
		}
	}
	return kept
}

// checkNothingAsked fails if upstream was asked for content since Forget. What a tag means may be asked by HEAD.
func (n *node) checkNothingAsked(t *testing.T) {
	t.Helper()
	for _, r := range n.upstream.Requests() {
		if r.Method != http.MethodHead {
			t.Errorf("a second pull made Kioo ask upstream: %s %s", r.Method, r.URI)
		}
	}
}

// checkIdentified fails if Kioo did not say who it is and for whom it asks.
func (n *node) checkIdentified(t *testing.T) {
	t.Helper()
	requests := n.upstream.Requests()
	if len(requests) == 0 {
		t.Error("upstream was asked nothing")
	}
	for _, r := range requests {
		if agent := r.Header.Get("User-Agent"); agent != "kioo/test" {
			t.Errorf("%s %s with User-Agent %q", r.Method, r.URI, agent)
		}
		if r.Header.Get("Via") == "" || r.Header.Get("X-Forwarded-For") == "" {
			t.Errorf("%s %s without Via or X-Forwarded-For: %v", r.Method, r.URI, r.Header)
		}
	}
}

// pullTwice runs a client's pull of some blobs against a fresh node: first when Kioo holds nothing, then when it
// holds all, and then when upstream is gone. pull checks all digests itself.
func (n *node) pullTwice(t *testing.T, blobs []v1.Descriptor, pull func(t *testing.T)) {
	t.Helper()
	pull(t)
	n.checkOnce(t, blobs)
	n.checkIdentified(t)
	if t.Failed() {
		t.Fatal("no use in pulling again")
	}
	n.upstream.Forget()
	pull(t)
	n.checkNothingAsked(t)
	n.upstream.Stop()
	pull(t)
	if err := n.upstream.Resume(); err != nil {
		t.Fatal(err)
	}
}

// eachUpstream runs a test against every kind of upstream.
func eachUpstream(t *testing.T, test func(t *testing.T, n *node)) {
	for name, cfg := range upstreams {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, cfg)
			if n.upstream.Forget(); cfg.Auth == registrytest.AuthNone && n.upstream.Tokens() != 0 {
				t.Fatal("tokens from an upstream that knows none")
			}
			before := n.upstream.Tokens()
			test(t, n)
			if cfg.Auth == registrytest.AuthToken {
				// One per scope and a few for requests that began before the first came; not one per request.
				if got := n.upstream.Tokens() - before; got < 1 || got > 4 {
					t.Errorf("Kioo took %d tokens, want few", got)
				}
			}
		})
	}
}

// hexOf is a digest as clients name files by it.
func hexOf(sum []byte) string { return hex.EncodeToString(sum) }

func pathForm(host, suffix string) string {
	return fmt.Sprintf("%s/%s/%s%s", host, registryName, repository, suffix)
}

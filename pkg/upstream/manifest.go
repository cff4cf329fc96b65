package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// acceptManifests asks for a manifest as it is stored: a registry must not convert it into another kind.
var acceptManifests = strings.Join([]string{
	ocispec.MediaTypeImageIndex, content.MediaTypeDockerManifestList,
	ocispec.MediaTypeImageManifest, content.MediaTypeDockerManifest, "*/*;q=0.1",
}, ", ")

var (
	errEncoded    = errors.New("answer is encoded, although the plain bytes were asked for")
	errNoManifest = errors.New("answer is no manifest")
)

type errTooLarge int64

func (e errTooLarge) Error() string { return fmt.Sprintf("more than %d bytes", int64(e)) }

// Manifest is a manifest with the bytes that its digest is of.
type Manifest struct {
	// Descriptor has media type, digest and size.
	Descriptor ocispec.Descriptor
	// Body is empty where only the descriptor was asked for.
	Body []byte
	// Lifetime is what the registry said of how long the answer counts.
	Lifetime Lifetime
}

// Lifetime is what Cache-Control and Age say of an answer.
type Lifetime struct {
	// MaxAge is how long it counts from now on. It is zero for what is not to be kept at all.
	MaxAge time.Duration
	// Said is false where they say nothing.
	Said bool
}

func lifetime(header http.Header) Lifetime {
	now := time.Now()
	until, said := cacheUntil(header.Values("Cache-Control"), now)
	if !said {
		return Lifetime{}
	}
	age, err := strconv.ParseUint(header.Get("Age"), 10, 31)
	if err != nil {
		age = 0
	}
	return Lifetime{MaxAge: max(0, until.Sub(now)-time.Duration(age)*time.Second), Said: true}
}

func (c *Client) manifestRequest(op, method string, ref reference.Reference, o Origin) *request {
	return &request{
		op: op, method: method, repo: ref.Repository, object: ref.Object(), path: "manifests/" + ref.Object(),
		header: http.Header{"Accept": {acceptManifests}}, origin: o, verified: ref.Digest != "",
		asked: access.Content, manifest: true,
	}
}

// Manifest gets a manifest by tag or digest. Its bytes match the digest that was asked for, or else the one that the
// registry named.
func (c *Client) Manifest(ctx context.Context, ref reference.Reference, o Origin) (Manifest, error) {
	var m Manifest
	r := c.manifestRequest("get manifest", http.MethodGet, ref, o)
	err := c.small(ctx, r, c.cfg.MaxManifestBytes, func(_ *endpoint, resp *http.Response, body []byte) error {
		var err error
		m, err = readManifest(ref.Digest, resp.Header, body)
		r.named = err == nil && (ref.Digest != "" || headerDigest(resp.Header) != "" || content.ManifestType(body) != "")
		return err
	})
	if err != nil {
		return Manifest{}, err
	}
	return m, nil
}

func readManifest(want digest.Digest, header http.Header, body []byte) (Manifest, error) {
	if want == "" {
		want = headerDigest(header)
	}
	algorithm := digest.Canonical
	if want != "" {
		algorithm = want.Algorithm()
	}
	got := algorithm.FromBytes(body)
	if want != "" && got != want {
		return Manifest{}, fmt.Errorf("manifest has digest %s instead of %s", got, want)
	}
	mediaType, err := manifestType(header.Get("Content-Type"), body)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: got, Size: int64(len(body))},
		Body:       body,
		Lifetime:   lifetime(header),
	}, nil
}

// headerDigest is the digest that a registry names, empty if it names none that could be one.
func headerDigest(header http.Header) digest.Digest {
	d, err := reference.ParseDigest(header.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return d
}

// declaredType is the media type that a Content-Type names, empty for types that any server gives to any file.
func declaredType(contentType string) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	switch mediaType {
	case "application/json", "application/octet-stream", "binary/octet-stream", "text/plain", "text/html":
		return ""
	}
	return mediaType
}

// lists says of the media types of manifests whether those of a kind list other manifests.
func lists(mediaType string) (lists, known bool) {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, content.MediaTypeDockerManifestList:
		return true, true
	case ocispec.MediaTypeImageManifest, content.MediaTypeDockerManifest:
		return false, true
	}
	return false, false
}

// manifestType finds out what a manifest is. What the registry says counts, unless the bytes say another kind or could
// be taken for either (CVE-2021-41190). Pages of proxies that come with status 200 are no manifests.
func manifestType(contentType string, body []byte) (string, error) {
	if !json.Valid(body) {
		return "", errNoManifest
	}
	declared, judged := declaredType(contentType), content.ManifestType(bytes.TrimSpace(body))
	list, known := lists(declared)
	switch {
	case declared != "" && !known:
		return declared, nil // Older than the image specification, or newer than this.
	case judged == "":
		return "", errNoManifest
	case known:
		if isList, _ := lists(judged); isList != list {
			return "", fmt.Errorf("%w of the type %s that it should be, but %s", errNoManifest, declared, judged)
		}
		return declared, nil
	}
	return judged, nil
}

// Head asks what a tag or digest means. A registry that answers that nothing changed since known was seen costs
// nothing, and the descriptor then has known's digest alone. Where a registry does not do HEAD, or leaves out what
// is needed, the manifest is fetched instead.
func (c *Client) Head(
	ctx context.Context, ref reference.Reference, known digest.Digest, o Origin,
) (Manifest, error) {
	r := c.manifestRequest("head manifest", http.MethodHead, ref, o)
	if known != "" {
		r.header.Set("If-None-Match", `"`+known.String()+`"`)
		r.also = []int{http.StatusNotModified}
	}
	var m Manifest
	err := c.small(ctx, r, 0, func(_ *endpoint, resp *http.Response, _ []byte) error {
		m.Lifetime = lifetime(resp.Header)
		if resp.StatusCode == http.StatusNotModified {
			m.Descriptor = ocispec.Descriptor{Digest: known}
			return nil
		}
		m.Descriptor = ocispec.Descriptor{
			MediaType: declaredType(resp.Header.Get("Content-Type")),
			Digest:    headerDigest(resp.Header),
			Size:      resp.ContentLength,
		}
		r.named = c.usable(ref, known, m.Descriptor)
		return nil
	})
	switch {
	case headUnsupported(err), err == nil && !c.usable(ref, known, m.Descriptor):
		m, err := c.Manifest(ctx, ref, o)
		m.Body = nil
		return m, err
	case err != nil:
		return Manifest{}, err
	case m.Descriptor.Size > c.cfg.MaxManifestBytes:
		return Manifest{}, r.failed(nil, ErrTooLarge, errTooLarge(c.cfg.MaxManifestBytes))
	}
	return m, nil
}

// usable says whether a HEAD's answer has all that a client needs.
func (c *Client) usable(ref reference.Reference, known digest.Digest, desc ocispec.Descriptor) bool {
	if known != "" && desc.Digest == known {
		return true
	}
	if ref.Digest != "" && desc.Digest != ref.Digest {
		return false
	}
	return desc.Digest != "" && desc.MediaType != "" && desc.Size > 0
}

func headUnsupported(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented)
}

// StatBlob asks for a blob's size. The descriptor has digest and size, and the media type that a registry takes
// blobs for, which says nothing.
func (c *Client) StatBlob(
	ctx context.Context, repo reference.Repository, dgst digest.Digest, o Origin,
) (ocispec.Descriptor, error) {
	r := blobRequest("head blob", http.MethodHead, repo, dgst, o)
	desc := ocispec.Descriptor{Digest: dgst, MediaType: "application/octet-stream", Size: -1}
	err := c.small(ctx, r, 0, func(_ *endpoint, resp *http.Response, _ []byte) error {
		desc.Size = resp.ContentLength
		r.named = headerDigest(resp.Header) == dgst
		return nil
	})
	switch {
	case headUnsupported(err), err == nil && desc.Size < 0:
		b, err := c.Blob(ctx, repo, dgst, 0, -1, o)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		desc.Size = b.Size()
		return desc, b.Close()
	case err != nil:
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

func blobRequest(op, method string, repo reference.Repository, dgst digest.Digest, o Origin) *request {
	return &request{
		op: op, method: method, repo: repo, object: dgst.String(), path: "blobs/" + dgst.String(),
		query: url.Values{}, header: http.Header{"Accept": {"*/*"}}, origin: o, verified: true,
		asked: access.Content,
	}
}

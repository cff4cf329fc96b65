package peer

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TagAnswer is what a member says of a tag.
type TagAnswer struct {
	Target ocispec.Descriptor
	// Confirmed is when the tag was heard to mean this, or some time before that, by this member's clock.
	Confirmed time.Time
	// Vouched says that a registry was heard, and not only a runtime that had pulled it.
	Vouched bool
}

// Tag asks a member what a tag means. addrs are all that the member is reached by, as in all calls.
func (c *Client) Tag(ctx context.Context, addrs []string, ref reference.Reference) (TagAnswer, error) {
	asked := c.cfg.Now()
	resp, err := c.do(ctx, http.MethodHead, addrs, ref, "manifests", nil)
	if err != nil {
		return TagAnswer{}, err
	}
	resp.Body.Close()
	answer, err := readTag(resp, asked)
	if err != nil {
		return TagAnswer{}, c.lied(addrs, ref, err)
	}
	return answer, nil
}

// readTag reads what a tag means from the head of an answer to a question of that time.
func readTag(resp *http.Response, asked time.Time) (TagAnswer, error) {
	dgst, err := reference.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return TagAnswer{}, Violate(BadDigest, "%v", err)
	}
	desc := ocispec.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: dgst, Size: resp.ContentLength}
	if desc.Size < 0 || desc.Size > content.MaxManifestBytes {
		return TagAnswer{}, Violate(BadSize, "a manifest of %d bytes", desc.Size)
	}
	if err := CheckMediaType(desc.MediaType); err != nil {
		return TagAnswer{}, err
	}
	said, err := saidAt(resp.Header, asked)
	return TagAnswer{Target: desc, Confirmed: said, Vouched: resp.Header.Get("Warning") == ""}, err
}

// lied notes that a member said something that it can't mean, and gives the error for it.
func (c *Client) lied(addrs []string, ref reference.Reference, err error) error {
	c.cfg.Violations.Note("", addrs[0], ref.String(), err)
	return fmt.Errorf("ask %s for %s: %w", addrs[0], ref, err)
}

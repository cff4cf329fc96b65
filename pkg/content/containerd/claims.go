package containerd

import (
	"context"
	"strings"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// claimOf reads an image record as a claim. CRI's record of an image's ID names no repository.
func claimOf(image *imagesapi.Image) (content.Claim, bool) {
	if image == nil || image.Target == nil || !namesRegistry(image.Name) {
		return content.Claim{}, false
	}
	ref, err := reference.Parse(image.Name)
	if err != nil {
		return content.Claim{}, false
	}
	dgst, err := reference.ParseDigest(image.Target.Digest)
	return content.Claim{Repository: ref.Repository, Target: dgst}, err == nil
}

// Claims gives what all image records claim. They are not complete where there are more records than are kept track
// of, or where containerd was not heard yet.
func (s *Store) Claims() (claims []content.Claim, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	claims = make([]content.Claim, 0, len(s.ledger.claims))
	for _, c := range s.ledger.claims {
		claims = append(claims, c)
	}
	return claims, s.listed && !s.full
}

// sourceLabel begins the labels that say where containerd's clients say that content is from: a registry's host,
// without its port, and repositories there.
const sourceLabel = "containerd.io/distribution.source."

// Labels calls each with what containerd's labels say of where its content is from, until one of them fails.
func (s *Store) Labels(ctx context.Context, each func(host, path string, dgst digest.Digest)) error {
	s.mu.Lock()
	r := s.remote
	s.mu.Unlock()
	if r == nil {
		return errNotRunning
	}
	return r.listBlobs(ctx, func(info *contentapi.Info) {
		for name, value := range info.Labels {
			host, ok := strings.CutPrefix(name, sourceLabel)
			if !ok {
				continue
			}
			for path := range strings.SplitSeq(value, ",") {
				each(host, path, digest.Digest(info.Digest))
			}
		}
	})
}

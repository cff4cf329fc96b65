package containerd

import (
	"errors"
	"strings"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
)

func isMiss(err error) bool { return errors.Is(err, content.ErrNotFound) }

// recordOf reads an image record. Those that say nothing of a tag are left out: CRI makes two more for each image, for
// its ID and for its name by digest.
func recordOf(image *imagesapi.Image, now time.Time) (record, bool) {
	ref, ok := parseName(image.Name)
	if !ok || image.Target == nil {
		return record{}, false
	}
	dgst, err := reference.ParseDigest(image.Target.Digest)
	if err != nil || image.Target.Size < 0 {
		return record{}, false
	}
	// Each pull writes the record anew. A clock that was set back must not make a record newer than all others.
	written := image.UpdatedAt.AsTime()
	if image.UpdatedAt == nil || written.After(now) {
		written = now
	}
	return record{ref: ref, meaning: meaning{
		mediaType: image.Target.MediaType, target: dgst, size: image.Target.Size, confirmed: written,
	}}, true
}

// parseName reads an image record's name, if it is that of a tag and says its registry. A name without one may have
// been given by anybody on this node, and is not taken for Docker Hub's: kubelet does not use such names either.
func parseName(name string) (reference.Reference, bool) {
	if !namesRegistry(name) {
		return reference.Reference{}, false
	}
	ref, err := reference.Parse(name)
	if err != nil || ref.Tag == "" || ref.Digest != "" {
		return reference.Reference{}, false
	}
	return ref, true
}

// namesRegistry tells whether an image record's name says its registry.
func namesRegistry(name string) bool {
	registry, _, ok := strings.Cut(name, "/")
	return ok && (strings.ContainsAny(registry, ".:[") || registry == "localhost")
}

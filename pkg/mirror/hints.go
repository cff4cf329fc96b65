package mirror

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hints is what manifests and registries say of content beside its bytes. A hint holds in the name of the repository
// that it was said in alone, and gives way to what the bytes say: anybody can say anything of the bytes of others. It
// is safe for concurrent use.
type hints struct {
	children *lru.Cache[part, child]
	read     *lru.Cache[part, struct{}] // Manifests whose children are known.
	// types are declared media types of manifests whose bytes don't say one.
	types *lru.Cache[part, string]
}

func newHints() (*hints, error) {
	children, err := lru.New[part, child](maxRemembered)
	if err != nil {
		return nil, fmt.Errorf("make memory of children: %w", err)
	}
	read, err := lru.New[part, struct{}](maxInMemory)
	if err != nil {
		return nil, fmt.Errorf("make memory of manifests that were read: %w", err)
	}
	types, err := lru.New[part, string](maxRemembered)
	if err != nil {
		return nil, fmt.Errorf("make memory of media types: %w", err)
	}
	return &hints{children, read, types}, nil
}

// child is what a manifest told of something that it consists of.
type child struct {
	size   int64
	before []digest.Digest // What the same manifest names before it.
}

// sizeOf gives the size of something that a manifest of its repository named; negative if none did. It is a hint.
func (m *Mirror) sizeOf(ref reference.Reference) int64 {
	if c, ok := m.hints.children.Get(part{ref.Repository, ref.Digest}); ok {
		return c.size
	}
	return -1
}

// Earlier gives what the last manifest of a repository that named a blob names before it, in order.
func (m *Mirror) Earlier(ref reference.Reference) []digest.Digest {
	c, _ := m.hints.children.Get(part{ref.Repository, ref.Digest})
	return c.before
}

// passes looks at a manifest that is answered. It may have been fetched in another repository's name, or before this
// process began.
func (m *Mirror) passes(repo reference.Repository, a *Answer) {
	a.Descriptor.MediaType = m.hints.typeOf(repo, a.Descriptor)
	b, ok := a.Blob.(content.Bytes)
	if !ok {
		return
	}
	b.Type = a.Descriptor.MediaType
	a.Blob = b
	m.learn(repo, a.Descriptor.Digest, b.Body)
}

// learn notes what a manifest tells of its children, once. A manifest that can't be read tells nothing.
func (m *Mirror) learn(repo reference.Repository, dgst digest.Digest, body []byte) {
	at := part{repo, dgst}
	if m.hints.read.Contains(at) {
		return
	}
	m.hints.read.Add(at, struct{}{})
	children, err := content.Children(body)
	if err != nil {
		return
	}
	children = children[:min(len(children), maxRemembered/4)]
	all := make([]digest.Digest, len(children))
	for i, c := range children {
		all[i] = c.Digest
		m.hints.children.Add(part{repo, c.Digest}, child{size: c.Size, before: all[:i:i]})
	}
	m.elsewhere.learn(repo, body)
}

// declared notes what a repository declares a manifest to be, and gives what its bytes say. Of bytes that say nothing
// at all, what was declared is all that there is.
func (h *hints) declared(repo reference.Repository, desc ocispec.Descriptor, body []byte) string {
	said, declared := content.ManifestType(body), desc.MediaType
	if said == "" {
		return declared
	}
	if declared != said && !content.SaysType(body) && content.SameKind(declared, said) {
		h.types.Add(part{repo, desc.Digest}, declared)
	}
	return said
}

// typeOf gives the media type of a manifest in a repository's name.
func (h *hints) typeOf(repo reference.Repository, desc ocispec.Descriptor) string {
	if declared, ok := h.types.Get(part{repo, desc.Digest}); ok {
		return declared
	}
	return desc.MediaType
}

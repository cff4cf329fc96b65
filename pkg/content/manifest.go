package content

import (
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestBytes is the largest manifest that is handled: registries are told to refuse larger ones by the
// distribution specification ("Pushing Manifests"), and containerd reads no more.
const MaxManifestBytes = 4 << 20

// The media types of Docker's manifests, which have the shape of the image specification's.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// manifest has the fields of every kind of manifest that matter here.
type manifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Blobs         []ocispec.Descriptor `json:"blobs"` // Artifact manifests, which were withdrawn but are around.
}

// Children gives the descriptors of what a manifest or index consists of, in its order. Descriptors that break the
// grammar are left out: they are hints here, and who fetches them checks them.
func Children(body []byte) ([]ocispec.Descriptor, error) {
	var m manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	all := append(append(append([]ocispec.Descriptor(nil), m.Manifests...), m.Layers...), m.Blobs...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	valid := all[:0]
	for _, d := range all {
		if d.Size >= 0 && d.Digest.Validate() == nil {
			valid = append(valid, d)
		}
	}
	return valid, nil
}

// ManifestType tells the media type of a manifest by what it says of itself or, where it says nothing, by its shape
// (image-spec, "Compatibility Matrix"). It is empty for what is no manifest.
func ManifestType(body []byte) string {
	var m manifest
	if json.Unmarshal(body, &m) != nil || m.SchemaVersion != 2 && m.MediaType == "" {
		return ""
	}
	switch {
	case m.MediaType != "" && (m.Config != nil || m.Layers != nil || m.Manifests != nil || m.Blobs != nil):
		return m.MediaType
	case m.Manifests != nil && m.Config == nil && m.Layers == nil:
		return ocispec.MediaTypeImageIndex
	case m.Manifests == nil && m.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

package content

import (
	"bytes"
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

// Children gives the descriptors of what a manifest or index consists of, in the order in which they are needed: the
// configuration, and then the layers from the lowest one on. Descriptors that break the grammar are left out: they are
// hints here, and who fetches them checks them.
func Children(body []byte) ([]ocispec.Descriptor, error) {
	var m struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
		Blobs     []ocispec.Descriptor `json:"blobs"` // Artifact manifests, which were withdrawn but are around.
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	var all []ocispec.Descriptor
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	all = append(append(append(all, m.Manifests...), m.Layers...), m.Blobs...)
	valid := all[:0]
	for _, d := range all {
		if d.Size >= 0 && d.Digest.Validate() == nil {
			valid = append(valid, d)
		}
	}
	return valid, nil
}

// manifestTypes are the media types of manifests, and whether those of a kind list other manifests.
var manifestTypes = map[string]bool{
	ocispec.MediaTypeImageManifest:                  false,
	"application/vnd.oci.artifact.manifest.v1+json": false,
	MediaTypeDockerManifest:                         false,
	ocispec.MediaTypeImageIndex:                     true,
	MediaTypeDockerManifestList:                     true,
}

// IsManifestType tells whether a media type is one of manifests.
func IsManifestType(mediaType string) bool {
	_, known := manifestTypes[mediaType]
	return known
}

// SameKind tells whether two media types are ones of manifests that both list other manifests, or both don't.
func SameKind(a, b string) bool {
	lists, known := manifestTypes[a]
	same, alsoKnown := manifestTypes[b]
	return known && alsoKnown && lists == same
}

// SaysType tells whether a manifest's bytes say their media type, and not only by their shape.
func SaysType(body []byte) bool {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	return json.Unmarshal(body, &m) == nil && m.MediaType != ""
}

// ManifestType gives the media type of a manifest: the one that it says, or else the OCI one that its shape says. It is
// empty for what is no manifest, and for what could be taken for either kind (CVE-2021-41190).
func ManifestType(body []byte) string {
	if len(body) > MaxManifestBytes || !bytes.HasPrefix(body, []byte("{")) {
		return ""
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
	}
	if json.Unmarshal(body, &m) != nil {
		return ""
	}
	lists, single := m.Manifests != nil, m.Config != nil || m.Layers != nil
	if lists && single {
		return ""
	}
	if m.MediaType != "" {
		isList, known := manifestTypes[m.MediaType]
		if !known || (isList && single) || (!isList && lists) {
			return ""
		}
		return m.MediaType
	}
	switch {
	case m.SchemaVersion != 2:
		return ""
	case lists:
		return ocispec.MediaTypeImageIndex
	case m.Config != nil && m.Layers != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

package cache

import (
	"bytes"
	"encoding/json"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is the largest manifest that anything accepts; larger files are no manifests.
const maxManifest = 4 << 20

// manifestTypes are the media types of manifests, and whether those of a kind list other manifests.
var manifestTypes = map[string]bool{
	ocispec.MediaTypeImageManifest:                              false,
	"application/vnd.oci.artifact.manifest.v1+json":             false,
	"application/vnd.docker.distribution.manifest.v2+json":      false,
	ocispec.MediaTypeImageIndex:                                 true,
	"application/vnd.docker.distribution.manifest.list.v2+json": true,
}

// sniffFile gives the media type of a manifest in a file. It is empty for everything else.
func sniffFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	first := make([]byte, 1)
	if n, err := file.ReadAt(first, 0); n == 0 || first[0] != '{' {
		if err == io.EOF {
			err = nil
		}
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return "", err
	}
	return sniff(body), nil
}

// sniff gives the media type of a manifest: the one that it says, or else the OCI one that its shape says. It is empty
// for what is no manifest, and for what could be taken for either kind (CVE-2021-41190).
func sniff(body []byte) string {
	if len(body) > maxManifest || !bytes.HasPrefix(body, []byte("{")) {
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

package content

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestManifestType(t *testing.T) {
	desc := `{"mediaType":"x","digest":"` + someDigest + `","size":1}`
	for body, want := range map[string]string{
		`{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifest + `","config":` + desc + `,"layers":[]}`: MediaTypeDockerManifest,
		`{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifestList + `","manifests":[]}`:                MediaTypeDockerManifestList,
		`{"schemaVersion":2,"config":` + desc + `,"layers":[` + desc + `]}`:                                   ocispec.MediaTypeImageManifest,
		`{"schemaVersion":2,"manifests":[` + desc + `]}`:                                                      ocispec.MediaTypeImageIndex,
		`{"schemaVersion":2,"manifests":[],"config":` + desc + `}`:                                            "",
		`{"mediaType":"text/plain"}`:                                                                          "",
		`{"architecture":"amd64","config":{}}`:                                                                "",
		`{"schemaVersion":1,"fsLayers":[]}`:                                                                   "",
		`[]`:                                                                                                  "",
		`{`:                                                                                                   "",
		``:                                                                                                    "",
	} {
		if got := ManifestType([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestChildren(t *testing.T) {
	body := `{"config":{"digest":"` + someDigest + `","size":5},"layers":[{"digest":"bad","size":1},{"digest":"` + someDigest + `","size":-1},{"digest":"` + someDigest + `","size":7}]}`
	children, err := Children([]byte(body))
	if err != nil || len(children) != 2 || children[0].Size != 7 || children[1].Size != 5 {
		t.Errorf("%+v, %v", children, err)
	}
	if _, err := Children([]byte(strings.Repeat(`{"a":`, 100_000))); err == nil {
		t.Error("JSON that nests without end was accepted")
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"` + someDigest + `"},"layers":[{}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[null]}`))
	f.Add([]byte(`{"layers":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_ = ManifestType(body)
		children, err := Children(body)
		if err != nil && children != nil {
			t.Error("children and an error")
		}
		for _, c := range children {
			if c.Size < 0 || c.Digest.Validate() != nil {
				t.Errorf("child %+v", c)
			}
		}
	})
}

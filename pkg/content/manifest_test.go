package content

import (
	"strings"
	"testing"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestManifestType(t *testing.T) {
	const (
		index      = "application/vnd.oci.image.index.v1+json"
		manifest   = "application/vnd.oci.image.manifest.v1+json"
		dockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
		docker     = "application/vnd.docker.distribution.manifest.v2+json"
	)
	for body, want := range map[string]string{
		`{"schemaVersion":2,"mediaType":"` + docker + `","config":{},"layers":[]}`: docker,
		`{"schemaVersion":2,"mediaType":"` + dockerList + `","manifests":[]}`:      dockerList,
		`{"schemaVersion":2,"manifests":[]}`:                                       index,
		`{"schemaVersion":2,"config":{},"layers":[]}`:                              manifest,
		`{"schemaVersion":2,"mediaType":"` + index + `","layers":[]}`:              "",
		`{"schemaVersion":2,"mediaType":"` + manifest + `","manifests":[]}`:        "",
		`{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`:               "",
		`{"schemaVersion":2,"mediaType":"text/html"}`:                              "",
		`{"schemaVersion":1,"config":{},"layers":[]}`:                              "",
		`{"architecture":"amd64","config":{},"rootfs":{}}`:                         "",
		`{"schemaVersion":2,"layers":[]}`:                                          "",
		`{`:                                                                        "",
		``:                                                                         "",
		`[]`:                                                                       "",
		"\x1f\x8b":                                                                 "",
		strings.Repeat(`{"a":`, 100_000):                                           "",
		`{"schemaVersion":2,"manifests":[]}` + strings.Repeat(" ", MaxManifestBytes): "",
	} {
		if got := ManifestType([]byte(body)); got != want {
			t.Errorf("ManifestType(%.80s) gave %q, want %q", body, got, want)
		}
	}
}

func TestChildren(t *testing.T) {
	body := `{"config":{"digest":"` + someDigest + `","size":5},"layers":[{"digest":"bad","size":1},{"digest":"` + someDigest + `","size":-1},{"digest":"` + someDigest + `","size":7}]}`
	children, err := Children([]byte(body))
	if err != nil || len(children) != 2 || children[0].Size != 5 || children[1].Size != 7 {
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
		if got := ManifestType(body); got != "" {
			if _, known := manifestTypes[got]; !known {
				t.Errorf("media type %q", got)
			}
		}
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

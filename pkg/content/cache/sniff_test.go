package cache

import (
	"strings"
	"testing"
)

func TestSniff(t *testing.T) {
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
		`{"schemaVersion":2,"manifests":[]}` + strings.Repeat(" ", maxManifest): "",
	} {
		if got := sniff([]byte(body)); got != want {
			t.Errorf("sniff(%.80s) gave %q, want %q", body, got, want)
		}
	}
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
	f.Add([]byte(`{"mediaType":"application/vnd.oci.image.index.v1+json"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got := sniff(body)
		if _, known := manifestTypes[got]; got != "" && !known {
			t.Errorf("sniffed %q", got)
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), []byte(`0000{"size":1}`))
	f.Fuzz(func(t *testing.T, key, sealed []byte) {
		if dgst, r, err := decodeBlob(key, sealed); err == nil && (dgst.Validate() != nil || r.Size < 0) {
			t.Errorf("record %q is taken as %s, %+v", sealed, dgst, r)
		}
		if tag, err := decodeTag(key, sealed); err == nil && tag.Target.Digest.Validate() != nil {
			t.Errorf("record %q is taken as %+v", sealed, tag)
		}
	})
}

package cache_test

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestHeldIsNeverRetyped has registries say what they like of bytes. What these say themselves is what counts, and what
// is held is not changed by anybody.
func TestHeldIsNeverRetyped(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2,"config":{},"layers":[]}`)
	docker := []byte(`{"schemaVersion":2,"mediaType":"` + content.MediaTypeDockerManifest + `","config":{},"layers":[]}`)
	layer := contenttest.Body(1, 1000)
	const unknown, octets, text = "application/x-layer", "application/octet-stream", "text/plain"
	for name, test := range map[string]struct {
		body []byte
		said []string
		want string
	}{
		"a manifest":                      {manifest, []string{ocispec.MediaTypeImageManifest}, ocispec.MediaTypeImageManifest},
		"another type later":              {manifest, []string{ocispec.MediaTypeImageManifest, text, ocispec.MediaTypeImageIndex}, ocispec.MediaTypeImageManifest},
		"another type first":              {manifest, []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest}, ocispec.MediaTypeImageManifest},
		"a manifest that says what it is": {docker, []string{ocispec.MediaTypeImageManifest}, content.MediaTypeDockerManifest},
		"a manifest got as a blob":        {docker, []string{octets}, content.MediaTypeDockerManifest},
		"nothing said":                    {manifest, []string{""}, ocispec.MediaTypeImageManifest},
		"a layer":                         {layer, []string{unknown, text}, unknown},
		"a layer, nothing said first":     {layer, []string{"", octets, unknown, text, octets}, unknown},
		"a layer, nothing said":           {layer, []string{octets}, ""},
	} {
		for how, hold := range map[string]func(*testing.T, *cache.Cache, string, []byte){
			"Put":    func(t *testing.T, c *cache.Cache, mediaType string, body []byte) { put(t, c, mediaType, body) },
			"Commit": func(t *testing.T, c *cache.Cache, mediaType string, body []byte) { ingest(t, c, mediaType, body) },
		} {
			dir := t.TempDir()
			c := openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
			for _, said := range test.said {
				hold(t, c, said, test.body)
			}
			for range 2 {
				checkBlob(t, c, descriptor("", test.body).Digest, test.body, test.want, false)
				closeCache(t, c)
				c = openCache(t, cache.Config{Dir: dir, MaxBytes: 1 << 20})
			}
			if t.Failed() {
				t.Fatalf("%s, by %s", name, how)
			}
		}
	}
}

package registry_test

import (
	"bytes"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestFullDisk has the disk run full under a mirror: pulls go on, from upstream.
func TestFullDisk(t *testing.T) {
	disk := contenttest.SmallDisk(t)
	warnings := make(chan string, 1000)
	log := funcr.New(func(_, line string) { warnings <- line }, funcr.Options{})
	metrics := prometheus.NewRegistry()
	s := newStack(t, options{metrics: metrics, cacheConfig: cache.Config{Dir: filepath.Join(disk, "cache"), Log: log}})
	old, body := pattern(1<<20), pattern(3<<20+5)
	held, blob := blobPath("org/app", s.remote.putBlob("org/app", old)), blobPath("org/app", s.remote.putBlob("org/app", body))
	image := s.remote.putImage("org/app", "v1", old)
	s.get(t, held).expect(t, 200)
	s.heldSoon(t, digest.FromBytes(old))
	contenttest.Fill(t, disk, 100_000)

	for range 2 {
		if g := s.get(t, blob).expect(t, 200); !bytes.Equal(g.body, body) {
			t.Errorf("%d bytes that are not the blob", len(g.body))
		}
		s.do(t, http.MethodHead, blob).expect(t, 200, "Content-Length", "3145733")
		s.get(t, "/v2/org/app/manifests/v1").expect(t, 200, "Docker-Content-Digest", image.String())
		s.do(t, http.MethodHead, "/v2/org/app/manifests/v1").expect(t, 200, "Docker-Content-Digest", image.String())
		s.get(t, "/v2/org/app/manifests/"+image.String()).expect(t, 200)
		if g := s.get(t, held, "Range", "bytes=-100").expect(t, 206); !bytes.Equal(g.body, old[len(old)-100:]) {
			t.Errorf("%d bytes that are not the end of what is held", len(g.body))
		}

		// What passes through can be had from its start. Else clients are sent elsewhere before they get any of it.
		if g := s.get(t, blob, "Range", "bytes=0-").expect(t, 206); !bytes.Equal(g.body, body) {
			t.Errorf("%d bytes that are not the blob", len(g.body))
		}
		if g := s.get(t, blob, "Range", "bytes=0-99").expect(t, 206); !bytes.Equal(g.body, body[:100]) {
			t.Errorf("%d bytes that are not the blob's first", len(g.body))
		}
		for _, r := range []string{"bytes=100-199", "bytes=100-", "bytes=-100"} {
			s.get(t, blob, "Range", r).expectError(t, 404, "BLOB_UNKNOWN")
		}
	}
	err := testutil.GatherAndCompare(metrics, strings.NewReader(
		"# HELP kioo_cache_disabled 1 while nothing new is cached because the disk is full.\n"+
			"# TYPE kioo_cache_disabled gauge\nkioo_cache_disabled 1\n"), "kioo_cache_disabled")
	if err != nil {
		t.Error(err)
	}
	said := 0
	for len(warnings) > 0 {
		if line := <-warnings; strings.Contains(line, "the disk is full") {
			said++
		}
	}
	if said != 1 {
		t.Errorf("the log says %d times that the disk is full, want once", said)
	}
}

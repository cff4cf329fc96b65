package registry_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	tagPath  = "/v2/org/app/manifests/v1"
	headTag  = "HEAD " + tagPath
	getTag   = "GET " + tagPath
	inWindow = 59 * time.Second
	beyond   = 61 * time.Second
)

func TestTagIsConfirmedOnceAWindow(t *testing.T) {
	s := newStack(t, options{})
	d := s.remote.putImage("org/app", "v1", []byte("a"))
	s.get(t, tagPath).expect(t, 200, "Age", "0")
	s.later(inWindow)
	s.get(t, tagPath).expect(t, 200, "Age", "59", "Warning", "-", "Docker-Content-Digest", d.String())
	if n := s.remote.total(); n != 1 {
		t.Fatalf("a fresh tag was asked for %d times", n)
	}
	s.later(2 * time.Second)
	for range 3 {
		s.do(t, http.MethodHead, tagPath).expect(t, 200, "Age", "0", "Docker-Content-Digest", d.String())
	}
	if heads, gets := s.remote.count(headTag), s.remote.count(getTag); heads != 1 || gets != 1 {
		t.Errorf("upstream saw %d HEAD and %d GET of the tag, want one each", heads, gets)
	}
}

func TestTagMoves(t *testing.T) {
	s := newStack(t, options{})
	one := s.remote.putImage("org/app", "v1", []byte("one"))
	s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", one.String())
	two := s.remote.putImage("org/app", "v1", []byte("two"))
	s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", one.String())
	s.later(beyond)
	g := s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", two.String())
	if digest.FromBytes(g.body) != two {
		t.Error("the body is not the new manifest")
	}
	// The old one is still there for who asks by its digest.
	s.get(t, "/v2/org/app/manifests/"+one.String()).expect(t, 200)
}

func TestTagWhileUpstreamCantBeAsked(t *testing.T) {
	for name, around := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"503":   func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true },
		"429":   func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(429); return true },
		"reset": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"silence": func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, stale := range []bool{true, false} {
				s := newStack(t, options{impatient: true, mirror: func(c *mirror.Config) {
					if !stale {
						c.Policy = registry.PolicyOf(t, "tags: {rules: [{match: '*:*', policy: upstream-only}]}")
					}
				}})
				d := s.remote.putImage("org/app", "v1", []byte("a"))
				s.get(t, tagPath).expect(t, 200)
				s.later(beyond)
				s.remote.set(around)
				if !stale {
					s.get(t, tagPath).expectError(t, 404, "MANIFEST_UNKNOWN")
					continue
				}
				g := s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", d.String(), "Age", "61")
				if w := strings.Join(g.header.Values("Warning"), ", "); w != `110 - "Response is Stale", 111 - "Revalidation Failed"` {
					t.Errorf("Warning is %q", w)
				}
				asked := s.remote.total()
				s.get(t, tagPath).expect(t, 200, "Age", "61")
				if n := s.remote.total(); n != asked {
					t.Errorf("upstream was asked again at once, %d times", n-asked)
				}
				s.remote.set(nil)
				s.later(6 * time.Second)
				s.get(t, tagPath).expect(t, 200, "Age", "0", "Warning", "-")
			}
		})
	}
}

func TestTagThatUpstreamDenies(t *testing.T) {
	for _, status := range []int{404, 401, 403} {
		s := newStack(t, options{})
		s.remote.putImage("org/app", "v1", []byte("a"))
		s.get(t, tagPath).expect(t, 200)
		s.later(beyond)
		s.remote.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true })
		s.get(t, tagPath).expectError(t, 404, "MANIFEST_UNKNOWN")
		asked := s.remote.total()
		for range 5 {
			s.get(t, tagPath).expectError(t, 404, "MANIFEST_UNKNOWN")
		}
		if n := s.remote.total(); n != asked {
			t.Errorf("%d: a failed look-up was asked again at once, %d times", status, n-asked)
		}
		s.remote.set(nil)
		s.later(6 * time.Second)
		s.get(t, tagPath).expect(t, 200)
	}
}

// TestTagIsLookedUpOnce has many clients at the same instant, for a tag that is new and then for one to be confirmed.
func TestTagIsLookedUpOnce(t *testing.T) {
	s := newStack(t, options{})
	s.remote.putImage("org/app", "v1", []byte("a"))
	s.remote.set(func(_ http.ResponseWriter, r *http.Request) bool {
		time.Sleep(50 * time.Millisecond) // Long enough for all of them to arrive.
		return false
	})
	for range 2 {
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				s.do(t, []string{http.MethodHead, http.MethodGet}[i%2], tagPath).expect(t, 200)
			})
		}
		group.Wait()
		s.later(beyond)
	}
	if heads, gets := s.remote.count(headTag), s.remote.count(getTag); heads != 1 || gets != 1 {
		t.Errorf("upstream saw %d HEAD and %d GET, want one each", heads, gets)
	}
}

func TestUpstreamWithoutHead(t *testing.T) {
	s := newStack(t, options{})
	one := s.remote.putImage("org/app", "v1", []byte("one"))
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	})
	s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", one.String())
	two := s.remote.putImage("org/app", "v1", []byte("two"))
	s.later(beyond)
	s.get(t, tagPath).expect(t, 200, "Docker-Content-Digest", two.String())
}

func TestManifestThatIsTooLarge(t *testing.T) {
	s := newStack(t, options{})
	s.remote.putManifest("org/app", "v1", ocispec.MediaTypeImageManifest, pattern(4<<20+1))
	g := s.get(t, tagPath)
	g.expectError(t, 404, "MANIFEST_UNKNOWN")
	if !strings.Contains(string(g.body), "4194304") {
		t.Errorf("the error does not name the limit: %s", g.body)
	}
	if _, err := s.cache.Open(t.Context(), digest.FromBytes(pattern(4<<20+1))); err == nil {
		t.Error("it was kept")
	}
}

func TestManifestThatNestsWithoutEnd(t *testing.T) {
	s := newStack(t, options{})
	body := []byte(`{"schemaVersion":2,"config":` + strings.Repeat(`{"a":`, 500_000))
	s.remote.putManifest("org/app", "v1", ocispec.MediaTypeImageManifest, body)
	s.get(t, tagPath).expectError(t, 404, "MANIFEST_UNKNOWN")
}

// TestStaleIsLogged says what was answered while upstream could not be asked: which digest, how old, and why.
func TestStaleIsLogged(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	s := newStack(t, options{impatient: true, mirror: func(c *mirror.Config) {
		c.Log = funcr.New(func(_, line string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		}, funcr.Options{})
	}})
	d := s.remote.putImage("org/app", "v1", []byte("a"))
	s.get(t, tagPath).expect(t, 200)
	s.later(beyond)
	s.remote.set(answering(http.StatusTooManyRequests))
	s.get(t, tagPath).expect(t, 200)
	mu.Lock()
	defer mu.Unlock()
	for _, line := range lines {
		if strings.Contains(line, "tag not confirmed") && strings.Contains(line, d.String()) && strings.Contains(line, beyond.String()) && strings.Contains(line, "429") {
			return
		}
	}
	t.Errorf("no line says so: %q", lines)
}

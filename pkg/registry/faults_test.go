package registry_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/opencontainers/go-digest"
)

// fault breaks the GET of a blob in an upstream that works but for that. n counts the GETs, from 1 on.
type fault func(w http.ResponseWriter, r *http.Request, n int64, body []byte) bool

const half = 1 << 20

func sendHalf(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Header().Set("ETag", `"`+digest.FromBytes(body).String()+`"`)
	_, _ = w.Write(body[:half])
	_ = http.NewResponseController(w).Flush()
}

// sendSlowly sends a body so that its reader has begun before its end is there, which may be refused.
func sendSlowly(w http.ResponseWriter, body []byte) {
	sendHalf(w, body)
	time.Sleep(200 * time.Millisecond)
	_, _ = w.Write(body[half:])
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

func status(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request, n int64, body []byte) bool {
		if n == 1 {
			sendHalf(w, body)
			panic(http.ErrAbortHandler)
		}
		if n == 2 {
			w.WriteHeader(code)
			return true
		}
		return false
	}
}

// TestFaults shows what a client sees of an upstream that breaks. What CONTAINERD.md calls the pull's death never
// happens: a reset, a clean end that is short, the end of content that is wrong.
func TestFaults(t *testing.T) {
	body := pattern(2*half + 4321)
	wrong := bytes.Clone(body)
	wrong[100] ^= 1
	for _, test := range []struct {
		name  string
		fault fault
		// refused: 404 before any byte. broken: 200, and the connection closes before the end. Else all is well.
		refused, broken bool
	}{
		{name: "stalls half-way, then works", fault: func(w http.ResponseWriter, r *http.Request, n int64, body []byte) bool {
			if n > 1 {
				return false
			}
			sendHalf(w, body)
			<-r.Context().Done()
			return true
		}},
		{name: "resets half-way, then works", fault: func(w http.ResponseWriter, _ *http.Request, n int64, body []byte) bool {
			if n > 1 {
				return false
			}
			sendHalf(w, body)
			reset(w)
			return true
		}},
		{name: "resets half-way each time", broken: true, fault: func(w http.ResponseWriter, r *http.Request, n int64, body []byte) bool {
			if n == 1 {
				sendHalf(w, body)
			}
			reset(w)
			return true
		}},
		{name: "drops ranges half-way", fault: func(w http.ResponseWriter, r *http.Request, n int64, body []byte) bool {
			if n == 1 {
				sendHalf(w, body)
				panic(http.ErrAbortHandler)
			}
			r.Header.Del("Range")
			return false
		}},
		{name: "429 in the middle", fault: status(429)},
		{name: "500 in the middle", fault: status(500)},
		{name: "401 in the middle, for good", broken: true, fault: func(w http.ResponseWriter, _ *http.Request, n int64, body []byte) bool {
			if n == 1 {
				sendHalf(w, body)
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}},
		{name: "says too much", broken: true, fault: func(w http.ResponseWriter, _ *http.Request, n int64, body []byte) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+1000))
			_, _ = w.Write(body)
			return true
		}},
		{name: "says too little", broken: true, fault: func(w http.ResponseWriter, _ *http.Request, n int64, body []byte) bool {
			sendSlowly(w, body[:len(body)-1000])
			return true
		}},
		{name: "wrong bytes", broken: true, fault: func(w http.ResponseWriter, _ *http.Request, _ int64, _ []byte) bool {
			sendSlowly(w, wrong)
			return true
		}},
		{name: "404", refused: true, fault: func(w http.ResponseWriter, _ *http.Request, _ int64, _ []byte) bool { w.WriteHeader(404); return true }},
		{name: "500", refused: true, fault: func(w http.ResponseWriter, _ *http.Request, _ int64, _ []byte) bool { w.WriteHeader(500); return true }},
		{name: "429", refused: true, fault: func(w http.ResponseWriter, _ *http.Request, _ int64, _ []byte) bool { w.WriteHeader(429); return true }},
		{name: "403", refused: true, fault: func(w http.ResponseWriter, _ *http.Request, _ int64, _ []byte) bool { w.WriteHeader(403); return true }},
		{name: "no answer", refused: true, fault: func(_ http.ResponseWriter, r *http.Request, _ int64, _ []byte) bool {
			<-r.Context().Done()
			return true
		}},
		{name: "headers and no byte", refused: true, fault: func(w http.ResponseWriter, r *http.Request, _ int64, body []byte) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return true
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStack(t, options{impatient: true})
			d := s.remote.putBlob("org/app", body)
			path := blobPath("org/app", d)
			s.breakBlob(path, body, test.fault)
			g := s.get(t, path)
			switch {
			case test.refused:
				g.expectError(t, 404, "BLOB_UNKNOWN")
			case test.broken:
				expectBroken(t, g, len(body))
				// What containerd does next: it asks for the rest, and must be sent elsewhere.
				s.get(t, path, "Range", fmt.Sprintf("bytes=%d-", len(g.body))).expectError(t, 404, "BLOB_UNKNOWN")
				if _, err := s.cache.Open(t.Context(), d); !errors.Is(err, content.ErrNotFound) {
					t.Errorf("it was kept: %v", err)
				}
			default:
				if g.expect(t, 200); !bytes.Equal(g.body, body) {
					t.Errorf("got %d bytes that are not the blob's %d", len(g.body), len(body))
				}
			}
			// The next request starts clean, once a failed look-up is forgotten.
			s.remote.set(nil)
			s.later(6 * time.Second)
			if g := s.get(t, path).expect(t, 200); !bytes.Equal(g.body, body) {
				t.Errorf("next request: %d bytes that are not the blob", len(g.body))
			}
		})
	}
}

// breakBlob has the fault answer the GETs of one path.
func (s *stack) breakBlob(path string, body []byte, f fault) {
	var gets atomic.Int64
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodGet && r.URL.Path == path && f(w, r, gets.Add(1), body)
	})
}

// expectBroken checks that a body broke off as runtimes can resume from: an announced length, some bytes, and a FIN.
func expectBroken(t *testing.T, g got, size int) {
	t.Helper()
	if g.status != 200 || g.header.Get("Content-Length") == "" {
		t.Fatalf("status %d with length %q", g.status, g.header.Get("Content-Length"))
	}
	if !errors.Is(g.err, io.ErrUnexpectedEOF) || len(g.body) == 0 || len(g.body) >= size {
		t.Errorf("%d of %d bytes, then %v; want some, then an unexpected end", len(g.body), size, g.err)
	}
}

func TestMismatchIsNotRememberedForWholes(t *testing.T) {
	s := newStack(t, options{})
	body := pattern(2 * half)
	d := s.remote.putBlob("org/app", body)
	path := blobPath("org/app", d)
	s.breakBlob(path, body, func(w http.ResponseWriter, _ *http.Request, n int64, body []byte) bool {
		if n > 1 {
			return false
		}
		wrong := bytes.Clone(body)
		wrong[0] ^= 1
		sendSlowly(w, wrong)
		return true
	})
	expectBroken(t, s.get(t, path), len(body))
	if g := s.get(t, path).expect(t, 200); !bytes.Equal(g.body, body) {
		t.Errorf("%d bytes that are not the blob", len(g.body))
	}
}

// TestNoRoom shows that a blob which can't be kept, nor spooled, is passed through, verified all the same.
func TestNoRoom(t *testing.T) {
	s := newStack(t, options{cacheConfig: cache.Config{MaxBytes: 1 << 20}})
	body := pattern(4 << 20)
	path := blobPath("org/app", s.remote.putBlob("org/app", body))
	for range 2 {
		if g := s.get(t, path).expect(t, 200); !bytes.Equal(g.body, body) {
			t.Fatalf("%d bytes that are not the blob", len(g.body))
		}
	}
	s.get(t, path, "Range", "bytes=0-").expect(t, 206)
	if g := s.get(t, path, "Range", "bytes=0-99").expect(t, 206); !bytes.Equal(g.body, body[:100]) {
		t.Errorf("the first 100 bytes: %d bytes", len(g.body))
	}
	s.get(t, path, "Range", "bytes=100-").expectError(t, 404, "BLOB_UNKNOWN")
	s.breakBlob(path, body, func(w http.ResponseWriter, _ *http.Request, _ int64, body []byte) bool {
		wrong := bytes.Clone(body)
		wrong[0] ^= 1
		w.Header().Set("Content-Length", fmt.Sprint(len(wrong)))
		_, _ = w.Write(wrong)
		return true
	})
	expectBroken(t, s.get(t, path), len(body))
}

// TestIdleConnections opens more connections than there may be. The server closes idle ones, and answers new clients.
func TestIdleConnections(t *testing.T) {
	s := newStack(t, options{connections: 50})
	var conns []net.Conn
	for range 200 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	s.get(t, "/v2/").expect(t, 200)
	closed := 0
	for _, conn := range conns[:140] {
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			closed++
		}
	}
	if closed != 140 {
		t.Errorf("%d of the 140 oldest connections were closed", closed)
	}
}

func TestHeaderBomb(t *testing.T) {
	s := newStack(t, options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Bomb: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestFirstByteDeadline has an upstream that is slow with the headers and slower with the first byte. The client has
// one deadline for both.
func TestFirstByteDeadline(t *testing.T) {
	s := newStack(t, options{mirror: func(c *mirror.Config) { c.AnswerWithin = time.Second }})
	body := pattern(half)
	path := blobPath("org/app", s.remote.putBlob("org/app", body))
	s.breakBlob(path, body, func(w http.ResponseWriter, r *http.Request, _ int64, body []byte) bool {
		time.Sleep(700 * time.Millisecond)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	began := time.Now()
	s.get(t, path).expectError(t, 404, "BLOB_UNKNOWN")
	if took := time.Since(began); took > 1600*time.Millisecond {
		t.Errorf("the answer took %v", took)
	}
}

// TestOneKindOfMissIsNotAnother asks for a digest as a manifest first, which upstream lacks, and then as a blob.
func TestOneKindOfMissIsNotAnother(t *testing.T) {
	s := newStack(t, options{})
	body := pattern(1000)
	d := s.remote.putBlob("org/app", body)
	s.do(t, http.MethodHead, "/v2/org/app/manifests/"+d.String()).expect(t, 404)
	s.do(t, http.MethodHead, blobPath("org/app", d)).expect(t, 200)
	s.get(t, blobPath("org/app", d)).expect(t, 200)
	s.heldSoon(t, d)
	// Held as a blob, it is still no manifest.
	s.later(6 * time.Second)
	s.get(t, "/v2/org/app/manifests/"+d.String()).expectError(t, 404, "MANIFEST_UNKNOWN")
}

// TestForeignManifestLies has another registry's manifest name a layer with a wrong size.
func TestForeignManifestLies(t *testing.T) {
	s := newStack(t, options{})
	body := pattern(2 * half)
	d := s.remote.putBlob("library/base", body)
	evil := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":%q,"size":7},"layers":[{"digest":%q,"size":7}]}`, d, d)
	s.remote.putManifest("evil/app", "v1", "application/vnd.oci.image.manifest.v1+json", []byte(evil))
	s.get(t, "/v2/evil/app/manifests/v1?ns=evil.example.com").expect(t, 200)
	if g := s.get(t, blobPath("library/base", d)).expect(t, 200); !bytes.Equal(g.body, body) {
		t.Errorf("%d bytes that are not the blob", len(g.body))
	}
}

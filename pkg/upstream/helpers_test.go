package upstream

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	registryName = "registry.test"
	repoPath     = "team/app"
)

var repo = reference.Repository{Registry: registryName, Path: repoPath}

// randomBytes gives the same bytes for the same size.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// server is a real HTTP server that keeps the requests it got.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
}

// serve starts a server whose handler also gets the request's number, from 0 on.
func serve(t *testing.T, handler func(w http.ResponseWriter, r *http.Request, n int)) *server {
	t.Helper()
	s := newServer(handler)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func newServer(handler func(w http.ResponseWriter, r *http.Request, n int)) *server {
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		n := len(s.requests)
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		handler(w, r, n)
	}))
	s.Config.ErrorLog = quiet()
	return s
}

func (s *server) seen() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.requests...)
}

func (s *server) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(s.URL, "https://"), "http://")
}

// fast has short waits for tests against real servers.
func fast(endpoints ...Endpoint) Config {
	return Config{
		Registries: func(reference.Repository) Registry { return Registry{Endpoints: endpoints} },
		UserAgent:  "kioo/test",
		Pseudonym:  "node-1",
		Timeouts:   Timeouts{Connect: 2 * time.Second, FirstByte: 2 * time.Second, Progress: 2 * time.Second},
		Retries:    Retries{Base: time.Millisecond, Max: 2 * time.Second},
		Proxy:      func(*http.Request) (*url.URL, error) { return nil, nil },
	}
}

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func at(servers ...*server) []Endpoint {
	var endpoints []Endpoint
	for _, s := range servers {
		endpoints = append(endpoints, Endpoint{URL: s.URL})
	}
	return endpoints
}

// serveBlob is an honest registry's answer.
func serveBlob(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("ETag", `"v1"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// offset reads where an open range begins.
func offset(r *http.Request) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	n, _ := strconv.Atoi(first)
	return n
}

// head sends the head of an honest answer from the asked offset on, and gives the bytes that should follow.
func head(w http.ResponseWriter, r *http.Request, data []byte) []byte {
	off := offset(r)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)-off))
	w.Header().Set("ETag", `"v1"`)
	if r.Header.Get("Range") != "" {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(data)-1, len(data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	return data[off:]
}

func flush(w http.ResponseWriter, b []byte) {
	_, _ = w.Write(b)
	_ = http.NewResponseController(w).Flush()
}

// reset ends the connection with RST.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// cut ends the connection with FIN.
func cutOff() { panic(http.ErrAbortHandler) }

// stall sends nothing more until the client gives up.
func stall(r *http.Request) { <-r.Context().Done() }

func readBlob(t *testing.T, c *Client, data []byte, off, end int64) ([]byte, *Blob, error) {
	t.Helper()
	b, err := c.Blob(t.Context(), repo, digest.FromBytes(data), off, end, Origin{})
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	return got, b, err
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// quiet is for servers whose complaints are part of the test.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

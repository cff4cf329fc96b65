package registry_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

const upstreamHost = "registry.example.com"

// remote is an upstream registry in memory, which counts and which breaks as a test wants it.
type remote struct {
	*httptest.Server
	mu        sync.Mutex
	manifests map[string][]byte // By "repository:tag" and "repository@digest".
	types     map[string]string
	blobs     map[string][]byte // By "repository@digest".
	counts    map[string]int    // By "METHOD path".
	sent      int64
	// around, if set, gets each request first and says whether it has answered it.
	around func(w http.ResponseWriter, r *http.Request) bool
}

func newRemote(t *testing.T, accepted func(net.Conn)) *remote {
	r := &remote{manifests: map[string][]byte{}, types: map[string]string{}, blobs: map[string][]byte{}, counts: map[string]int{}}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if accepted != nil {
			accepted(conn)
		}
		return ctx
	}
	r.Start()
	t.Cleanup(r.Server.Close)
	return r
}

func (r *remote) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.counts[req.Method+" "+req.URL.Path]++
	around := r.around
	r.mu.Unlock()
	if around != nil && around(w, req) {
		return
	}
	r.answer(w, req)
}

func (r *remote) answer(w http.ResponseWriter, req *http.Request) {
	parts := strings.Split(strings.TrimPrefix(req.URL.Path, "/v2/"), "/")
	if len(parts) < 3 {
		return
	}
	repo, verb, object := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
	sep := ":"
	if strings.Contains(object, ":") {
		sep = "@"
	}
	r.mu.Lock()
	body, ok := r.blobs[repo+sep+object]
	if verb == "manifests" {
		body, ok = r.manifests[repo+sep+object]
	}
	mediaType := r.types[repo+sep+object]
	r.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	dgst := digest.FromBytes(body).String()
	w.Header().Set("Docker-Content-Digest", dgst)
	w.Header().Set("ETag", `"`+dgst+`"`)
	if mediaType != "" {
		w.Header().Set("Content-Type", mediaType)
	}
	http.ServeContent(&meter{w, r}, req, "", time.Time{}, bytes.NewReader(body))
}

// meter counts the bytes of bodies.
type meter struct {
	http.ResponseWriter
	r *remote
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.ResponseWriter.Write(p)
	m.r.mu.Lock()
	m.r.sent += int64(n)
	m.r.mu.Unlock()
	return n, err
}

func (r *remote) putBlob(repo string, body []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(body)
	r.blobs[repo+"@"+d.String()] = body
	return d
}

// putImage makes an image manifest of layers and gives its digest.
func (r *remote) putImage(repo, tag string, layers ...[]byte) digest.Digest {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: r.putBlob(repo, []byte("{}")), Size: 2}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: r.putBlob(repo, l), Size: int64(len(l))})
	}
	body, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return r.putManifest(repo, tag, ocispec.MediaTypeImageManifest, body)
}

func (r *remote) putManifest(repo, tag, mediaType string, body []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(body)
	for _, name := range []string{repo + "@" + d.String(), repo + ":" + tag} {
		r.manifests[name], r.types[name] = body, mediaType
	}
	return d
}

func (r *remote) set(around func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.around = around
}

func (r *remote) count(request string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[request]
}

func (r *remote) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := 0
	for n := range maps.Values(r.counts) {
		sum += n
	}
	return sum
}

// stack is a mirror from the API down to real HTTP upstream.
type stack struct {
	url    string
	remote *remote
	cache  *cache.Cache
	mirror *mirror.Mirror
	book   *access.Book
	now    func() time.Time
	mu     sync.Mutex
	offset time.Duration
}

// later moves the mirror's clock.
func (s *stack) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset += d
}

type options struct {
	cacheConfig cache.Config
	mirror      func(*mirror.Config)
	mode        access.Mode
	offlineFor  time.Duration
	registry    func(*registry.Config)
	connections int
	impatient   bool // Upstream has little time, so that tests of silence don't last.
	metrics     prometheus.Registerer
	accepted    func(net.Conn) // What becomes of connections to the remote.
}

func newStack(t *testing.T, o options) *stack {
	t.Helper()
	s := &stack{remote: newRemote(t, o.accepted)}
	began := time.Now()
	s.now = func() time.Time { // It stands still until a test moves it.
		s.mu.Lock()
		defer s.mu.Unlock()
		return began.Add(s.offset)
	}
	var rules *policy.Policy
	s.book = access.New(access.Config{
		AcceptedFor: 5 * time.Minute, RefusedFor: 30 * time.Second, OpenFor: time.Hour, OfflineFor: o.offlineFor, Now: s.now,
		Mode: func(repo reference.Repository) access.Mode {
			if rules != nil && rules.Access(repo) == config.AccessOwn {
				return access.Own // As the daemon has it.
			}
			return o.mode
		},
	})
	log := logr.Discard()
	o.cacheConfig.Dir = cmp.Or(o.cacheConfig.Dir, t.TempDir())
	if o.cacheConfig.Log.GetSink() == nil {
		o.cacheConfig.Log = log
	}
	o.cacheConfig.Registerer = o.metrics
	if o.cacheConfig.MaxBytes == 0 {
		o.cacheConfig.MaxBytes = 1 << 30
	}
	var err error
	if s.cache, err = cache.Open(o.cacheConfig); err != nil {
		t.Fatal(err)
	}
	var timeouts upstream.Timeouts
	if o.impatient {
		timeouts = upstream.Timeouts{Connect: time.Second, FirstByte: 500 * time.Millisecond, Progress: 500 * time.Millisecond}
	}
	client, err := upstream.New(upstream.Config{
		Registries: func(reference.Repository) upstream.Registry {
			return upstream.Registry{Endpoints: []upstream.Endpoint{{URL: s.remote.URL + "/"}}}
		},
		Timeouts: timeouts,
		Retries:  upstream.Retries{Attempts: 2, Base: 10 * time.Millisecond, Within: 2 * time.Second},
		Observe:  s.book.Learn,
		Log:      log, Registerer: o.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	flights := flight.New(flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			return s.cache.Create(owner, dgst, size)
		},
		Held: func(dgst digest.Digest) bool {
			b, err := s.cache.Open(context.Background(), dgst)
			return err == nil && b.Close() == nil
		},
		Log: testr.New(t),
	})
	mcfg := mirror.Config{
		Held: []mirror.Held{{Name: "cache", Store: s.cache}}, Keeper: s.cache, Flights: flights, Upstream: client, Access: s.book,
		FailedFor: 5 * time.Second, Now: s.now, Log: log,
	}
	if o.mirror != nil {
		o.mirror(&mcfg)
		rules = mcfg.Policy
	}
	m, err := mirror.New(mcfg)
	if err != nil {
		t.Fatal(err)
	}
	s.mirror = m
	rcfg := registry.Config{Resolver: reference.Resolver{Default: upstreamHost}, Backend: m, Pseudonym: "kioo-test", MaxHops: 3, Log: log}
	rcfg.RelayPathForm = func(reference.Repository) bool { return true }
	if o.registry != nil {
		o.registry(&rcfg)
	}
	if o.connections == 0 {
		o.connections = 512
	}
	server := registry.NewServer(registry.New(rcfg), o.connections, 5*time.Second, log)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.Close()
		flights.Close()
		client.Close()
		if err := s.cache.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// got is a response, read to its end.
type got struct {
	status int
	header http.Header
	body   []byte
	err    error // Of reading the body.
}

func (s *stack) do(t *testing.T, method, path string, header ...string) got {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return got{resp.StatusCode, resp.Header, body, err}
}

func (s *stack) get(t *testing.T, path string, header ...string) got {
	t.Helper()
	return s.do(t, http.MethodGet, path, header...)
}

// expect checks status and headers, given as name and value in turn; "-" is for a header that must be missing.
func (g got) expect(t *testing.T, status int, header ...string) got {
	t.Helper()
	if g.status != status {
		t.Fatalf("status %d, want %d: %s", g.status, status, g.body)
	}
	for i := 0; i+1 < len(header); i += 2 {
		want := header[i+1]
		if want == "-" {
			want = ""
		}
		if v := g.header.Get(header[i]); v != want {
			t.Errorf("%s is %q, want %q", header[i], v, want)
		}
	}
	if g.err != nil {
		t.Errorf("read body: %v", g.err)
	}
	return g
}

// expectError checks that the body is the specification's, with this code.
func (g got) expectError(t *testing.T, status int, code string) {
	t.Helper()
	g.expect(t, status, "Content-Type", "application/json")
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(g.body, &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
		t.Errorf("body is %s, want one error with code %s and a message (%v)", g.body, code, err)
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + i>>16)
	}
	return b
}

// heldSoon waits for the commit that follows a blob's last byte.
func (s *stack) heldSoon(t *testing.T, d digest.Digest) {
	t.Helper()
	for range 1000 {
		if b, err := s.cache.Open(t.Context(), d); err == nil {
			b.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s is not kept", d)
}

func blobPath(repo string, d digest.Digest) string { return fmt.Sprintf("/v2/%s/blobs/%s", repo, d) }

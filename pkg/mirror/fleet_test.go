package mirror_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// origin is an upstream registry with one image, that counts what it is asked.
type origin struct {
	*httptest.Server
	manifest, config, layer []byte
	// keep is how many bytes each member keeps of what it gets.
	keep int64

	mu    sync.Mutex
	asked map[string]int // By the path's end.
	// before is called with each request, and answers it if it says so.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{config: []byte(`{"architecture":"amd64"}`), layer: bytes.Repeat([]byte("layer "), 150_000), asked: map[string]int{}, keep: 16 << 20}
	o.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"c","digest":%q,"size":%d},"layers":[{"mediaType":"l","digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageManifest, digest.FromBytes(o.config), len(o.config), digest.FromBytes(o.layer), len(o.layer))
	held := map[string][]byte{"v1": o.manifest, "latest": o.manifest}
	for _, body := range [][]byte{o.manifest, o.config, o.layer} {
		held[digest.FromBytes(body).String()] = body
	}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		object := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		o.mu.Lock()
		o.asked[object]++
		before := o.before
		o.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		body, ok := held[object]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *origin) count(object string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked[object]
}

func (o *origin) intercept(before func(w http.ResponseWriter, r *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.before = before
}

// resident is a member of a real fleet: discovery, peer API, tracker and mirror.
type resident struct {
	*mirror.Mirror
	disc   *discovery.Discovery
	client *tracker.Client
	store  *cache.Cache
	// mute ends the peer API alone; stop ends the member, with a goodbye.
	mute, stop func()
}

// newFleet starts members that know each other.
func newFleet(t *testing.T, n int, o *origin, change func(*mirror.Config)) []*resident {
	t.Helper()
	key := peer.NewKey()
	var fleet []*resident
	for i := range n {
		var first []netip.AddrPort
		if len(fleet) > 0 {
			first = fleet[0].disc.Self().Addrs
		}
		fleet = append(fleet, newResident(t, key, i, first, o, change))
	}
	deadline := time.Now().Add(time.Minute)
	for _, m := range fleet {
		for len(m.disc.Members()) != n-1 || m.disc.Pending() != 0 {
			if time.Now().After(deadline) {
				t.Fatal("the members never met")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return fleet
}

func newResident(t *testing.T, key peer.Key, number int, first []netip.AddrPort, o *origin, change func(*mirror.Config)) *resident {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	creds, err := peer.NewCredentials([]peer.Key{key}, time.Now)
	check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	m := &resident{}
	m.disc, err = discovery.New(discovery.Config{
		Keys: [][]byte{key[:]}, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		PeerAPI: []string{l.Addr().String()}, Bootstrap: discovery.Static(first), BootstrapInterval: 300 * time.Millisecond,
	})
	check(err)
	peers := peer.NewClient(peer.ClientConfig{Credentials: creds})
	service, err := tracker.NewService(tracker.ServiceConfig{Directory: m.disc, Now: time.Now, Log: logr.Discard()})
	check(err)
	m.client, err = tracker.NewClient(tracker.ClientConfig{
		Locator: m.disc, Caller: peers, Service: service, Now: time.Now, Log: logr.Discard(),
	})
	check(err)
	members, err := mirror.NewMembers(m.disc, peers, time.Now, logr.Discard())
	check(err)
	m.store, err = cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: o.keep, SpoolBytes: 16 << 20})
	check(err)
	up, err := upstream.New(upstream.Config{
		Registries: func(reference.Repository) upstream.Registry {
			return upstream.Registry{Endpoints: []upstream.Endpoint{{URL: o.URL}}}
		},
		Retries:   upstream.Retries{Attempts: 1},
		UserAgent: fmt.Sprint(number), // So that upstream knows who asks.
	})
	check(err)
	flights := flight.New(flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			return m.store.Create(owner, dgst, size)
		},
		Held: func(dgst digest.Digest) bool {
			held, err := m.store.Open(context.Background(), dgst)
			return err == nil && held.Close() == nil
		},
		Log: logr.Discard(),
	})
	cfg := mirror.Config{
		Held: []mirror.Held{{Name: "cache", Store: m.store}}, Keeper: m.store, Members: members, Tracker: m.client, Upstream: up,
		Flights: flights, FailedFor: time.Second, Log: logr.Discard(),
	}
	if change != nil {
		change(&cfg)
	}
	m.Mirror, err = mirror.New(cfg)
	check(err)
	server := peer.NewServer(peer.ServerConfig{
		Handler:     registry.New(registry.Config{Backend: m.Local(), Pseudonym: "members", Log: logr.Discard()}),
		Handle:      map[string]http.Handler{tracker.Path: service},
		Credentials: creds, Drain: time.Millisecond, Log: logr.Discard(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = m.disc.Run(ctx) })
	serving, mute := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Run(serving, l)
	}()
	running.Go(func() { _ = service.Run(ctx) })
	m.mute = func() {
		mute()
		<-served
	}
	m.stop = sync.OnceFunc(func() {
		m.mute()
		cancel()
		running.Wait()
	})
	<-m.disc.Started()
	t.Cleanup(func() {
		m.stop()
		m.Close()
		flights.Close()
		m.client.Close()
		peers.Close()
		up.Close()
		if err := m.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *resident) tag(ctx context.Context, name string) ([]byte, error) {
	return read(ctx)(m.Manifest(ctx, reference.Reference{Repository: ref.Repository, Tag: name}, upstream.Origin{}))
}

func (m *resident) manifest(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	return read(ctx)(m.Manifest(ctx, reference.Reference{Repository: ref.Repository, Digest: dgst}, upstream.Origin{}))
}

func (m *resident) blob(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	return read(ctx)(m.Blob(ctx, reference.Reference{Repository: ref.Repository, Digest: dgst}, false, upstream.Origin{}))
}

func read(ctx context.Context) func(*mirror.Answer, error) ([]byte, error) {
	return func(a *mirror.Answer, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		defer a.Blob.Close()
		return content.ReadAll(ctx, a.Blob, 8<<20)
	}
}

// together has all members do the same at the same time, and gives how long the last one took.
func together(t *testing.T, fleet []*resident, what func(ctx context.Context, m *resident) error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	began := time.Now()
	for i, m := range fleet {
		all.Go(func() {
			if err := what(ctx, m); err != nil {
				t.Errorf("member %d: %v", i, err)
			}
		})
	}
	all.Wait()
	return time.Since(began)
}

func want(body []byte) func([]byte, error) error {
	return func(got []byte, err error) error {
		if err == nil && !bytes.Equal(got, body) {
			err = fmt.Errorf("got %d bytes: %.100q", len(got), got)
		}
		return err
	}
}

package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// office is a tracker that answers as a test says.
type office struct {
	answer func(swarm.Announce) (tracker.Answer, error)
	asked  atomic.Int64
}

func (o *office) Announce(_ context.Context, _ string, a swarm.Announce) (tracker.Answer, error) {
	o.asked.Add(1)
	return o.answer(a)
}

func (o *office) Member(swarm.ID) (discovery.Member, bool) { return discovery.Member{}, false }

func newSessions(t *testing.T, change func(*Config)) *Sessions {
	t.Helper()
	cfg := Config{
		Self: "self", Held: func(context.Context, reference.Reference, access.Claim) bool { return false },
		Announcer: &office{answer: func(swarm.Announce) (tracker.Answer, error) {
			return tracker.Answer{}, tracker.ErrSilent
		}},
	}
	change(&cfg)
	x, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	return x
}

// newPeers gives what members are called with, in a cluster with a key of its own.
func newPeers(t *testing.T) *peer.Client {
	t.Helper()
	creds, err := peer.NewCredentials([]peer.Key{peer.NewKey()}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	client := peer.NewClient(peer.ClientConfig{Credentials: creds})
	t.Cleanup(client.Close)
	return client
}

// source is a trusted source of a body, with a name.
type source struct {
	body  []byte
	err   error
	opens atomic.Int64
}

func (s *source) Trusted() bool                          { return true }
func (s *source) Blame(error)                            {}
func (s *source) Kind() string                           { return "upstream" }
func (s *source) String() string                         { return "upstream" }
func (s *source) Reference() (reference.Reference, bool) { return reference.Reference{}, true }
func (s *source) Claim() access.Claim                    { return access.ClaimOpen }
func (s *source) From(discovery.Member) flight.Source    { return s }

func (s *source) Open(_ context.Context, off, end int64) (flight.Stream, error) {
	s.opens.Add(1)
	if s.err != nil {
		return nil, s.err
	}
	if end < 0 || end > int64(len(s.body)) {
		end = int64(len(s.body))
	}
	if off >= end && off > 0 {
		return nil, errors.New("status 416")
	}
	return &passage{strings.NewReader(string(s.body[off:end])), int64(len(s.body))}, nil
}

type passage struct {
	io.Reader
	size int64
}

func (p *passage) Size() int64  { return p.size }
func (p *passage) Ranged() bool { return true }
func (p *passage) Close() error { return nil }

func group(t *testing.T, x *Sessions) *flight.Group {
	t.Helper()
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	g := flight.New(flight.Config{
		Create: func(owner content.Owner, dgst digest.Digest, size int64) (flight.Spool, error) {
			return c.Create(owner, dgst, size)
		},
		Held:  func(digest.Digest) bool { return false },
		Swarm: x,
	})
	t.Cleanup(func() {
		g.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func pull(t *testing.T, g *flight.Group, dgst digest.Digest, src flight.Source) error {
	t.Helper()
	r, err := g.Join(t.Context(), "", "", dgst, flight.SizeHint{}, src)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.CopyRange(t.Context(), io.Discard, 0, r.Size())
	return err
}

// TestAlone has a lone member with a lease on the whole: one read of upstream, and no pieces.
func TestAlone(t *testing.T) {
	body := make([]byte, 9<<20)
	o := &office{answer: func(a swarm.Announce) (tracker.Answer, error) {
		return tracker.Answer{Assignment: swarm.Assignment{Size: a.Size, Leases: []swarm.Lease{{End: a.Size}}}}, nil
	}}
	x := newSessions(t, func(c *Config) { c.Announcer = o })
	src := &source{body: body}
	if err := pull(t, group(t, x), digest.FromBytes(body), src); err != nil {
		t.Error(err)
	}
	if src.opens.Load() != 1 || o.asked.Load() == 0 {
		t.Errorf("upstream was read %d times after %d announces", src.opens.Load(), o.asked.Load())
	}
}

// TestAloneWithHolder has a lone member be told of a holder before the blob's size is known: it reads from it, and once
// the size is known it has still nobody to exchange pieces with.
func TestAloneWithHolder(t *testing.T) {
	x := newSessions(t, func(*Config) {})
	p := &session{x: x, size: -1}
	answer := tracker.Answer{Assignment: swarm.Assignment{Size: -1, Holders: []swarm.ID{"holder"}}}
	p.announce.last = &answer
	for _, size := range []int64{-1, 9 << 20} {
		p.size, p.layout = size, swarm.NewLayout(max(0, size))
		if leases := p.leasesOf(&answer); len(leases) != 1 || leases[0].From != "holder" || p.company() {
			t.Errorf("of %d bytes it has leases %v, and company: %v", size, leases, p.company())
		}
	}
	answer.Size = 9 << 20
	if leases := p.leasesOf(&answer); len(leases) != 0 || !p.company() {
		t.Errorf("it has leases %v of a tracker that gave none", leases)
	}
}

// TestNoTracker has no tracker: the flight goes on as it does without a swarm.
func TestNoTracker(t *testing.T) {
	body := make([]byte, 5<<20)
	x := newSessions(t, func(*Config) {})
	if err := pull(t, group(t, x), digest.FromBytes(body), &source{body: body}); err != nil {
		t.Error(err)
	}
}

// TestNoSource has the tracker say that nobody has it: who was refused upstream does not ask again.
func TestNoSource(t *testing.T) {
	refusal := errors.New("refused")
	x := newSessions(t, func(c *Config) {
		c.Announcer = &office{answer: func(a swarm.Announce) (tracker.Answer, error) {
			if a.Upstream == swarm.Able {
				return tracker.Answer{Assignment: swarm.Assignment{Size: -1, Leases: []swarm.Lease{{End: -1}}}}, nil
			}
			return tracker.Answer{Assignment: swarm.Assignment{Size: -1, NoSource: true}}, nil
		}}
	})
	src := &source{err: refusal}
	began := time.Now()
	err := pull(t, group(t, x), digest.FromString("private"), src)
	if !errors.Is(err, refusal) || time.Since(began) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestTell(t *testing.T) {
	held := digest.FromString("held")
	x := newSessions(t, func(c *Config) {
		c.Held = func(_ context.Context, ref reference.Reference, claim access.Claim) bool {
			return ref.Digest == held && ref.Repository.String() == "quay.io/org/app" && claim == access.ClaimChecked
		}
	})
	const repo = "/quay.io/org/app"
	for _, test := range []struct {
		name, path, member, method string
		status                     int
	}{
		{"held", held.String() + repo, "other", http.MethodGet, 200},
		{"held for some", tracker.Apart(held.String(), "some") + repo, "other", http.MethodGet, 200},
		{"of another repository", held.String() + repo + "x", "other", http.MethodGet, 404},
		{"unknown", digest.FromString("unknown").String() + repo, "other", http.MethodGet, 404},
		{"no digest", "sha256:1" + repo, "other", http.MethodGet, 400},
		{"nothing", "", "other", http.MethodGet, 400},
		{"no repository", held.String(), "other", http.MethodGet, 400},
		{"nobody", held.String() + repo, "", http.MethodGet, 400},
		{"a name too long", held.String() + repo, strings.Repeat("x", 200), http.MethodGet, 400},
		{"a write", held.String() + repo, "other", http.MethodPost, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), test.method, Path+test.path, nil)
			req.Header.Set(peer.MemberHeader, test.member)
			req.Header.Set(peer.ClaimHeader, string(access.ClaimChecked))
			w := httptest.NewRecorder()
			x.ServeHTTP(w, req)
			if w.Code != test.status {
				t.Fatalf("status %d, want %d", w.Code, test.status)
			}
			if test.status != 200 {
				return
			}
			r := bufio.NewReader(w.Body)
			if f, err := readFrame(r, 1); err != nil || f.all || len(f.haves) > 0 {
				t.Errorf("first frame: %+v, %v", f, err)
			}
			if f, err := readFrame(r, 1); err != nil || !f.all {
				t.Errorf("second frame: %+v, %v", f, err)
			}
		})
	}
}

// TestFollowers bounds who listens, and tells each of a piece once.
func TestFollowers(t *testing.T) {
	f := &follower{kick: make(chan struct{}, 1)}
	haves := someHaves(3)
	f.push(haves[:2])
	f.rest(map[int]swarm.Hash{0: haves[0].Hash, 2: haves[2].Hash})
	if got, _, _ := f.take(); len(got) != 3 {
		t.Errorf("told of %d pieces", len(got))
	}
	f.end(true)
	if got, ended, all := f.take(); len(got) != 0 || !ended || !all {
		t.Errorf("in the end: %d, %v, %v", len(got), ended, all)
	}
}

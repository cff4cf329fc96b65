package mirror_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Who knows a tag, and how well; and how upstream is.
const (
	unknown = "unknown"
	fresh   = "fresh"
	old     = "old"
)

// situation is one combination of rules and of what is known. Each has a repository of its own.
type situation struct {
	action, policy string
	peers          bool
	own, member    string // unknown, fresh or old.
	upstream       int    // The status that it answers with.
	byDigest       bool
	holder         string // By digest: of whose manifest.
	name, tag      string
}

func situations() []*situation {
	var all []*situation
	add := func(s situation) {
		s.name = fmt.Sprintf("%s-%v/r%d", s.action, s.peers, len(all))
		s.tag = "v-" + s.policy
		all = append(all, &s)
	}
	for _, action := range []string{config.Allow, config.Local, config.Deny} {
		for _, peers := range []bool{true, false} {
			for _, own := range []string{unknown, fresh, old} {
				for _, member := range []string{unknown, fresh, old} {
					for _, status := range []int{200, 404, 429, 503} {
						for _, policy := range []string{config.PeersFirst, config.UpstreamFirst, config.UpstreamOnly, config.Never} {
							add(situation{action: action, policy: policy, peers: peers, own: own, member: member, upstream: status})
						}
						for _, holder := range []string{"own", "member", "upstream"} {
							add(situation{action: action, peers: peers, own: own, member: member, upstream: status, byDigest: true, holder: holder})
						}
					}
				}
			}
		}
	}
	return all
}

// body is the manifest that somebody has in a situation.
func (s *situation) body(of string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"layers":[],"config":{},"annotations":{"of":%q,"in":%q}}`, of, s.name)
}

func (s *situation) reference() reference.Reference {
	r := reference.Reference{Repository: reference.Repository{Registry: "quay.io", Path: s.name}, Tag: s.tag}
	if s.byDigest {
		r.Tag, r.Digest = "", digest.FromBytes(s.body(s.holder))
	}
	return r
}

func age(how string) time.Duration {
	return map[string]time.Duration{fresh: time.Second, old: time.Hour}[how]
}

// model walks through what was explained, and says of each step in a few words whether it has an answer: who that is,
// and who was asked until then.
func (s *situation) model(plan policy.Plan) (answer string, stale bool, asked []string) {
	down := s.upstream == 429 || s.upstream == 503
	passed := false // Upstream was.
	for _, step := range plan.Steps {
		if passed && !down || passed && step.Who == policy.Members && s.own != unknown {
			continue // The last known answer is for when upstream can't be asked, and members for who knows none.
		}
		switch step.Who {
		case policy.Node:
			has := s.own == fresh || s.own == old && (passed || s.action == config.Local)
			if s.byDigest {
				has = s.own != unknown && s.holder == "own"
			}
			if has {
				return "own", passed, asked
			}
		case policy.Members:
			if s.action == config.Local && !s.byDigest && s.own != unknown {
				continue
			}
			asked = append(asked, "member")
			has := s.member == fresh || s.member == old && (passed || s.own == unknown)
			if s.byDigest {
				has = s.member != unknown && s.holder == "member"
			}
			if has {
				return "member", passed, asked
			}
		case policy.Upstream:
			asked, passed = append(asked, "upstream"), true
			if s.upstream == 200 && (!s.byDigest || s.holder == "upstream") {
				// It moved, or each member asks for itself, and what it means now is content by digest.
				if (s.own != unknown || s.policy != config.PeersFirst) && !s.byDigest && s.peers {
					asked = append(asked, "member", "upstream")
				}
				return "upstream", false, asked
			}
			down = down && !s.byDigest
		}
	}
	return "", false, asked
}

// world is what a mirror of all situations asks, and notes of what.
type world struct {
	all map[string]*situation // By repository.

	mu    sync.Mutex
	asked map[string][]string
}

// as gives the handler of a member or of upstream.
func (w *world) as(who string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		path, object, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		s := w.all[path]
		if s == nil {
			http.Error(rw, "nobody's", http.StatusTeapot)
			return
		}
		w.mu.Lock()
		if said := w.asked[path]; len(said) == 0 || said[len(said)-1] != who {
			w.asked[path] = append(said, who)
		}
		w.mu.Unlock()
		status := s.upstream
		if who == "member" {
			status = map[bool]int{true: 404, false: 200}[s.member == unknown]
			rw.Header().Set("Age", fmt.Sprint(int(age(s.member).Seconds())))
		}
		body := s.body(who)
		if dgst := digest.FromBytes(body).String(); status == 200 && object != s.tag && object != dgst {
			status = 404
		}
		if status != 200 {
			rw.WriteHeader(status)
			return
		}
		rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		rw.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		rw.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = rw.Write(body)
	}
}

// every is the configuration of all situations.
func every(t *testing.T) *policy.Policy {
	t.Helper()
	cfg := config.Default()
	for _, action := range []string{config.Allow, config.Local, config.Deny} {
		for _, peers := range []bool{true, false} {
			r := config.DefaultRegistry()
			r.Match, r.Action, r.Peers = fmt.Sprintf("*/%s-%v/*", action, peers), action, peers
			cfg.Registries = append(cfg.Registries, r)
		}
	}
	for _, p := range []string{config.PeersFirst, config.UpstreamFirst, config.UpstreamOnly, config.Never} {
		rule := config.DefaultTagRule()
		rule.Match, rule.Policy, rule.FreshFor = "*:v-"+p, p, 30*time.Minute // Each item is put a thousand syncs before it is looked at.
		cfg.Tags.Rules = append(cfg.Tags.Rules, rule)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEveryRule puts a mirror into every combination of a route, a tag rule, and what the node, a member and upstream
// know: it asks whom kioo explain names, in that order, and answers as a model says.
func TestEveryRule(t *testing.T) {
	w := &world{all: map[string]*situation{}, asked: map[string][]string{}}
	all := situations()
	for _, s := range all {
		w.all[s.name] = s
	}
	remote := httptest.NewServer(w.as("upstream"))
	defer remote.Close()
	members := newTown(t)
	members.add(t, "member", w.as("member"))
	p := every(t)
	m, store := ruledMirror(t, members, remote.URL, p, 64<<20)
	for _, s := range all {
		if s.own == unknown {
			continue
		}
		body := s.body("own")
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(body), Size: int64(len(body))}
		known := content.Tag{Target: desc, Confirmed: time.Now().Add(-age(s.own))}
		tag := reference.Reference{Repository: s.reference().Repository, Tag: s.tag}
		if err := errors.Join(store.Put(t.Context(), "", desc, body), store.SetTag(t.Context(), tag, known)); err != nil {
			t.Fatal(err)
		}
	}
	clients := registry.New(registry.Config{Backend: m, Pseudonym: "clients", Log: logr.Discard()})
	others := registry.New(registry.Config{Backend: m.Local(), Pseudonym: "members", Log: logr.Discard()})
	work := make(chan *situation)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for s := range work {
				w.check(t, clients, others, p, s)
			}
		})
	}
	for _, s := range all {
		work <- s
	}
	close(work)
	workers.Wait()
	t.Logf("%d combinations", len(all))
}

func serve(h http.Handler, ref reference.Reference) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v2/"+ref.Path+"/manifests/"+ref.Object()+"?ns="+ref.Registry, nil))
	return rec
}

func (w *world) check(t *testing.T, clients, members http.Handler, p *policy.Policy, s *situation) {
	ref := s.reference()
	answer, stale, asked := s.model(p.Explain(ref, policy.Surroundings{Members: true}))
	// Other members get what is held, and nothing where they have no business.
	code := serve(members, ref).Code
	if code == http.StatusOK && (!s.peers || s.action == config.Deny) {
		t.Errorf("%+v: a member gets it", *s)
	}
	if code != http.StatusOK && s.peers && s.action != config.Deny && s.own != unknown && s.byDigest && s.holder == "own" {
		t.Errorf("%+v: a member does not get it: %d", *s, code)
	}
	got := serve(clients, ref)
	switch {
	case answer == "" && got.Code != http.StatusNotFound:
		t.Errorf("%+v: got %d, %s", *s, got.Code, got.Body)
	case answer != "" && (got.Code != http.StatusOK || got.Body.String() != string(s.body(answer))):
		t.Errorf("%+v: got %d, %s, want %s's", *s, got.Code, got.Body, answer)
	case answer != "" && (got.Header().Get("Warning") != "") != stale:
		t.Errorf("%+v: warning %q", *s, got.Header().Values("Warning"))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.asked[s.name], asked) {
		t.Errorf("%+v: asked %v, want %v", *s, w.asked[s.name], asked)
	}
}

package mirror_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mover is a registry whose tags are named "policy.situation", and behave so.
type mover struct {
	mu       sync.Mutex
	asked    map[string]int  // Requests for a tag, or for what it meant or means.
	rolling  bool            // The rollout has begun: until then tags mean what they meant.
	answered map[string]bool // In the rollout.
}

func manifestOf(tag, what string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"layers":[],"config":{},"annotations":{"tag":%q,"what":%q}}`, tag, what)
}

// answer gives the old manifest before the rollout. In it, tags that "moved" mean the new one, those that "move" do so
// once their first question is answered, and others can't be had.
func (m *mover) answer(w http.ResponseWriter, r *http.Request) bool {
	object := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	m.mu.Lock()
	defer m.mu.Unlock()
	tag, what, isTag := object, "old", !strings.Contains(object, ":")
	if !isTag {
		var ok bool
		if tag, what, ok = find(object); !ok {
			return false
		}
	}
	m.asked[tag]++
	_, situation, _ := strings.Cut(tag, ".")
	if m.rolling {
		switch situation {
		case "503", "429":
			var status int
			_, _ = fmt.Sscan(situation, &status)
			w.WriteHeader(status)
			return true
		case "moved":
			what = choose(isTag, "new", what)
		case "moves":
			what = choose(isTag && m.answered[tag], "new", what)
			m.answered[tag] = m.answered[tag] || isTag
		}
	}
	body := manifestOf(tag, what)
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body)
	return true
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

var (
	rollingPolicies   = []string{config.PeersFirst, config.UpstreamFirst, config.UpstreamOnly, config.Never}
	rollingSituations = []string{"new", "moved", "moves", "503", "429"}
)

// find tells whose manifest a digest is.
func find(dgst string) (tag, what string, ok bool) {
	for _, policy := range rollingPolicies {
		for _, situation := range rollingSituations {
			for _, what := range []string{"old", "new"} {
				tag := policy + "." + situation
				if digest.FromBytes(manifestOf(tag, what)).String() == dgst {
					return tag, what, true
				}
			}
		}
	}
	return "", "", false
}

// TestRollout has all members ask for a tag at one instant, under each policy and in each way in which a registry can
// behave. With peers-first all get the same answer, and the registry gets about one member's requests, however many
// ask; with the others, under which members are not believed, it gets a HEAD from each and sends the manifest about
// once.
func TestRollout(t *testing.T) {
	const fresh = 500 * time.Millisecond
	o, m := newOrigin(t), &mover{asked: map[string]int{}, answered: map[string]bool{}}
	o.intercept(m.answer)
	cfg := config.Default()
	for _, p := range rollingPolicies {
		cfg.Tags.Rules = append(cfg.Tags.Rules, config.TagRule{Match: "*:" + p + ".*", Policy: p, FreshFor: fresh})
	}
	rules, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fleet := newFleet(t, 6, o, func(c *mirror.Config) { c.Policy = rules })
	for _, p := range rollingPolicies {
		for _, situation := range rollingSituations[1:] { // All knew these before.
			together(t, fleet, func(ctx context.Context, member *resident) error {
				_, err := member.tag(ctx, p+"."+situation)
				if (err == nil) != (p != config.Never) {
					return fmt.Errorf("before the rollout, %s: %w", p, err)
				}
				return nil
			})
		}
	}
	time.Sleep(2 * fresh)
	m.mu.Lock()
	m.rolling = true
	m.mu.Unlock()
	for _, p := range rollingPolicies {
		for _, situation := range rollingSituations {
			t.Run(p+", "+situation, func(t *testing.T) { m.rollOut(t, fleet, p, situation) })
		}
	}
}

func (m *mover) rollOut(t *testing.T, fleet []*resident, policy, situation string) {
	tag := policy + "." + situation
	m.mu.Lock()
	before := m.asked[tag]
	m.mu.Unlock()
	var mu sync.Mutex
	answers := map[string]int{}
	together(t, fleet, func(ctx context.Context, member *resident) error {
		body, err := member.tag(ctx, tag)
		mu.Lock()
		defer mu.Unlock()
		switch string(body) {
		case string(manifestOf(tag, "old")):
			answers["old"]++
		case string(manifestOf(tag, "new")):
			answers["new"]++
		default:
			answers[fmt.Sprintf("none: %t", err != nil)]++
		}
		return nil
	})
	m.mu.Lock()
	asked := m.asked[tag] - before
	m.mu.Unlock()
	t.Logf("%d members: %v, by %d requests upstream", len(fleet), answers, asked)
	unaskable := situation == "503" || situation == "429"
	want, most := "new", 2*few // It moved: one asks for the tag, and for what it means.
	if policy != config.PeersFirst {
		most = len(fleet) + few // Each asks for the tag, and one for what it means.
	}
	if situation == "moves" && policy != config.PeersFirst && policy != config.Never {
		// What each hears is what the tag meant when it was asked for, as it would be without a mirror.
		answers["old"], answers["new"] = answers["old"]+answers["new"], 0
	}
	switch {
	case policy == "never":
		want, most = "none: true", 0
	case unaskable && policy == "upstream-only":
		want, most = "none: true", len(fleet) // Each hears the refusal that it answers with.
	case unaskable:
		want, most = "old", len(fleet)
	case situation == "new", situation == "moves":
		if want = "old"; policy == config.PeersFirst {
			most = few
		}
	}
	if answers[want] != len(fleet) || asked > most || asked == 0 && policy != "never" {
		t.Errorf("%d members: %v, by %d requests, want %s by %d at most", len(fleet), answers, asked, want, most)
	}
}

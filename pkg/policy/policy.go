// Package policy decides whom a request may reach, whom to believe about a tag, and where a foreign layer may come
// from.
//
// Its decisions are pure functions over the configuration and of what is known: no request is made here, no clock is
// read, nothing is remembered. Who asks does what it says, and kioo explain prints it.
package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/pattern"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// Policy is a configuration's rules, ready to be asked. It is immutable and safe for concurrent use.
type Policy struct {
	routes  []route
	tags    []tagRule
	access  []accessRule
	relayed []pattern.Pattern // To clients of the path form.
	mode    string
	bounds  config.CacheControl
	foreign Foreign
}

type route struct {
	name  string
	match pattern.Pattern
	rule  config.Registry
}

type accessRule struct {
	match pattern.Pattern
	mode  string
}

type tagRule struct {
	match pattern.Pattern
	rule  TagRule
}

// New makes the policy of a valid configuration.
func New(cfg *config.Config) (*Policy, error) {
	p := &Policy{bounds: cfg.Tags.CacheControl, foreign: newForeign(cfg.ForeignLayers)}
	for i, r := range cfg.Registries {
		match, err := pattern.Parse(r.Match)
		if err != nil {
			return nil, fmt.Errorf("registries[%d].match %w", i, err)
		}
		p.routes = append(p.routes, route{fmt.Sprintf("registries[%d]", i), match, r})
	}
	p.mode = cfg.Access.Mode
	for i, r := range cfg.Access.Rules {
		match, err := pattern.Parse(r.Match)
		if err != nil {
			return nil, fmt.Errorf("access.rules[%d].match %w", i, err)
		}
		p.access = append(p.access, accessRule{match, r.Mode})
	}
	for i, s := range cfg.Access.RelayPathForm {
		match, err := pattern.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("access.relayPathForm[%d] %w", i, err)
		}
		p.relayed = append(p.relayed, match)
	}
	own := len(cfg.Tags.Rules)
	for i, r := range append(cfg.Tags.Rules[:own:own], config.DefaultTagRules()...) {
		match, err := pattern.ParseTag(r.Match)
		if err != nil {
			return nil, fmt.Errorf("tags.rules[%d].match %w", i, err)
		}
		name := fmt.Sprintf("tags.rules[%d]", i)
		if i >= own {
			name = "default"
		}
		p.tags = append(p.tags, tagRule{match, TagRule{Name: name, TagRule: r}})
	}
	return p, nil
}

// Default is the policy of a configuration without rules.
func Default() (*Policy, error) { return New(config.Default()) }

// Route is what holds for one repository.
type Route struct {
	// Name is the rule's place in the configuration, or "default".
	Name string
	// Registry is the rule.
	config.Registry

	repo  reference.Repository
	match pattern.Pattern
}

// Server is an endpoint, with the variables filled in.
type Server struct {
	config.Endpoint
	// Unlisted says that its host is the name that a request came with, and nobody's who wrote the configuration.
	Unlisted bool

	match pattern.Pattern
}

// Route gives the first rule that is for a repository, or the default.
func (p *Policy) Route(repo reference.Repository) Route {
	for _, r := range p.routes {
		if _, ok := r.match.Repository(repo); ok {
			return Route{Name: r.name, Registry: r.rule, repo: repo, match: r.match}
		}
	}
	return Route{Name: "default", Registry: config.DefaultRegistry(), repo: repo, match: pattern.Any()}
}

// Servers gives the servers that are asked, in this order. There is one at least, but for rules that ask nobody
// upstream.
func (r Route) Servers() []Server {
	if !r.AsksUpstream() {
		return nil
	}
	if len(r.Endpoints) == 0 {
		return []Server{{Endpoint: config.EndpointAt(reference.BaseURL(r.repo.Registry)), Unlisted: true, match: r.match}}
	}
	var servers []Server
	for _, e := range r.Endpoints {
		unlisted := strings.Contains(e.URL, config.RegistryVariable)
		e.URL = strings.Replace(e.URL, config.RegistryVariable, reference.Server(r.repo.Registry), 1)
		servers = append(servers, Server{Endpoint: e, Unlisted: unlisted, match: r.match})
	}
	return servers
}

// Denied tells whether nothing is answered for a repository. Of an empty path, it tells whether that is so for the
// whole registry.
func (p *Policy) Denied(repo reference.Repository) bool {
	if repo.Path != "" {
		return p.Route(repo).Action == config.Deny
	}
	for _, r := range p.routes {
		if r.match.Registry(repo.Registry) {
			return r.rule.Action == config.Deny
		}
	}
	return false
}

// AsksUpstream tells whether a registry may be asked.
func (r Route) AsksUpstream() bool { return r.Action == config.Allow }

// AsksMembers tells whether other members may be asked, and told.
func (r Route) AsksMembers() bool { return r.Action != config.Deny && r.Peers }

var notInNames = regexp.MustCompile(`[^a-z0-9._]+`)

// Rewrite gives what the server calls a repository.
func (s Server) Rewrite(repo reference.Repository) (string, error) {
	if s.Repository == "" || s.Repository == config.RepositoryVariable {
		return repo.Path, nil
	}
	rest, _ := s.match.Repository(repo)
	registry := strings.Trim(notInNames.ReplaceAllString(repo.Registry, "-"), "-._")
	path := strings.NewReplacer(
		config.RegistryVariable, registry, config.RepositoryVariable, repo.Path, config.RestVariable, rest,
	).Replace(s.Repository)
	if err := reference.CheckPath(path); err != nil {
		return "", fmt.Errorf("%s becomes %q by %q: %w", repo, path, s.Repository, err)
	}
	return path, nil
}

// TagRule is what holds for one tag.
type TagRule struct {
	// Name is the rule's place in the configuration, or "default".
	Name string
	// TagRule is the rule.
	config.TagRule
}

// Tag gives the first rule that is for a tag.
func (p *Policy) Tag(ref reference.Reference) TagRule {
	for _, t := range p.tags {
		if t.match.Tag(ref) {
			return t.rule
		}
	}
	return TagRule{Name: "default", TagRule: config.DefaultTagRule()} // For what has no tag.
}

// Known is what somebody knows of a tag.
type Known struct {
	// Known says that there is anything; the rest counts only then.
	Known bool
	// Vouched says that a registry said so, Age ago. Else it is what somebody pulled, and nobody knows how old it is.
	Vouched bool
	// Own says that this node heard the registry itself. Else it is the word of another member.
	Own bool
	Age time.Duration
}

// Fresh tells whether what this node knows is answered without asking anybody. said is how long the registry said that
// its answer counts, already within bounds, or negative.
func (t TagRule) Fresh(own Known, said time.Duration) bool {
	window := t.FreshFor
	if said >= 0 {
		window = said
	}
	believed := own.Own || t.Policy == config.PeersFirst
	return t.Policy != config.Never && own.Known && own.Vouched && believed && own.Age < window
}

// Answers tells whether such tags are answered for at all.
func (t TagRule) Answers() bool { return t.Policy != config.Never }

// MembersFirst tells whether other members are asked before upstream.
func (t TagRule) MembersFirst() bool { return t.Policy == config.PeersFirst }

// BelieveMembers tells whether what other members know is answered without asking upstream, given what this node knows:
// a word as fresh as its own would have to be, or, where it has none, one that is not too old.
func (t TagRule) BelieveMembers(own, theirs Known) bool {
	switch {
	case t.Policy != config.PeersFirst || !theirs.Known:
		return false
	case theirs.Vouched && theirs.Age < t.FreshFor:
		return true
	case own.Known:
		return false
	}
	return t.MaxAge == 0 || theirs.Vouched && theirs.Age <= t.MaxAge
}

// FallBack tells whether what is known is answered while upstream can't be asked.
func (t TagRule) FallBack(known Known) bool {
	if !known.Known || t.Policy != config.PeersFirst && t.Policy != config.UpstreamFirst {
		return false
	}
	return t.MaxStale == 0 || known.Age <= t.MaxStale
}

// FallsBack tells whether anything is answered while upstream can't be asked.
func (t TagRule) FallsBack() bool {
	return t.Policy == config.PeersFirst || t.Policy == config.UpstreamFirst
}

// Access gives whose credentials count for a repository, as the configuration calls it. Where nothing is asked outside
// of the cluster, nobody can be asked who may read: then everybody may, unless that was to be verified.
func (p *Policy) Access(repo reference.Repository) string {
	mode := p.mode
	for _, r := range p.access {
		if _, ok := r.match.Repository(repo); ok {
			mode = r.mode
			break
		}
	}
	if mode != config.AccessVerify && !p.Route(repo).AsksUpstream() {
		return config.AccessOwn
	}
	return mode
}

// RelaysPathForm tells whether clients that can't tell registries apart may be asked for a repository's credentials.
func (p *Policy) RelaysPathForm(repo reference.Repository) bool {
	for _, match := range p.relayed {
		if _, ok := match.Repository(repo); ok {
			return true
		}
	}
	return false
}

// Bounded brings what a registry said of how long its answer counts within bounds; negative if it does not matter.
func (p *Policy) Bounded(maxAge time.Duration, said bool) time.Duration {
	if !said || p.bounds.Most == 0 {
		return -1
	}
	return min(max(maxAge, p.bounds.Least), p.bounds.Most)
}

// Foreign gives what holds for foreign layers.
func (p *Policy) Foreign() Foreign { return p.foreign }

// Foreign is what holds for foreign layers.
type Foreign struct {
	// Share says that those which may not be distributed are given to other members.
	Share bool
	// Networks are those in which hosts may be though they are private.
	Networks []netip.Prefix

	action  string
	hosts   pattern.Hosts
	schemes []string
}

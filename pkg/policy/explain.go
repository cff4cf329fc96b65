package policy

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// The parties that a plan's steps ask.
const (
	Node     = "node"
	Members  = "members"
	Upstream = "upstream"
	Client   = "client"
)

// Plan says what would be asked for a reference, in order. The first that has an answer ends it.
type Plan struct {
	Reference string `json:"reference"`
	// Route and Tag name the rules that hold, with what they match.
	Route string `json:"route"`
	Tag   string `json:"tag,omitempty"`
	Steps []Step `json:"steps"`
}

// Step is one party that is asked.
type Step struct {
	// Who is Node, Members, Upstream, or Client: then the client is told to ask the registry itself.
	Who string `json:"who"`
	// URL is what is asked for upstream.
	URL string `json:"url,omitempty"`
	// Credentials says with whose.
	Credentials string `json:"credentials,omitempty"`
	// Why says when, and for what reason.
	Why string `json:"why"`
}

// Surroundings are what a plan depends on beside the rules.
type Surroundings struct {
	// Containerd says that the node's own containerd is asked.
	Containerd bool
	// Members says that there may be other members.
	Members bool
	// Own says which credentials the node itself has for a server.
	Own func(repo reference.Repository, server string) string

	access string // The mode that holds.
}

// whose says with whose credentials a server is asked. Clients' go to the last one alone: it is the registry itself.
func (s Surroundings) whose(repo reference.Repository, server string, last bool) string {
	whose := "nobody's"
	if s.access == config.AccessOwn || s.access == config.AccessAuto {
		whose = s.Own(repo, server)
	}
	if last && s.access != config.AccessOwn {
		whose += "; where these are refused, the client's own"
	}
	return whose
}

// Explain says what would be asked for a manifest, and why. Blobs take the same way as manifests by digest.
func (p *Policy) Explain(ref reference.Reference, s Surroundings) Plan {
	route := p.Route(ref.Repository)
	s.access = p.Access(ref.Repository)
	plan := Plan{Reference: ref.String(), Route: named(route.Name, route.Match)}
	if route.Action == config.Deny {
		plan.add(Step{Who: Client, Why: "the route denies it: 404 at once, and nobody is asked"})
		return plan
	}
	if ref.Tag == "" {
		plan.add(s.node("content by digest never changes"))
		if s.Members && route.AsksMembers() {
			plan.add(Step{Who: Members, Why: "they may hold it"})
		}
		plan.upstream(ref, route, s, "no member has it")
		return plan
	}
	tag := p.Tag(ref)
	plan.Tag = named(tag.Name, tag.Match) + ", " + tag.Policy
	if tag.Policy == config.Never {
		plan.add(Step{Who: Client, Why: "the tag rule answers for no such tag: 404 at once"})
		return plan
	}
	plan.tagged(ref, route, tag, s)
	return plan
}

// tagged plans for a tag that somebody is asked about.
func (p *Plan) tagged(ref reference.Reference, route Route, tag TagRule, s Surroundings) {
	members := s.Members && route.AsksMembers()
	if !route.AsksUpstream() {
		p.add(s.node("the route asks nothing outside of the cluster, so that its word is as good as any"))
		if members {
			p.add(Step{Who: Members, Why: "if this node does not know the tag"})
		}
		p.add(Step{Who: Client, Why: "404: nobody else is asked"})
		return
	}
	p.add(s.node(fmt.Sprintf("if a registry said what the tag means less than %s ago", plain(tag.FreshFor))))
	if members && tag.MembersFirst() {
		why := fmt.Sprintf("if they heard it from a registry less than %s ago", plain(tag.FreshFor))
		if tag.MaxAge == 0 {
			why += ", or at any time if this node knows nothing of the tag"
		} else {
			why += fmt.Sprintf(", or %s if this node knows nothing of the tag", plain(tag.MaxAge))
		}
		p.add(Step{Who: Members, Why: why})
	}
	p.upstream(ref, route, s, "nobody before knows it well enough")
	if !tag.FallsBack() {
		return
	}
	last := p.Steps[len(p.Steps)-1]
	p.Steps = p.Steps[:len(p.Steps)-1]
	why := "only while upstream can't be asked: the last known answer, with a Warning"
	if tag.MaxStale > 0 {
		why += fmt.Sprintf(", if it is at most %s old", plain(tag.MaxStale))
	}
	p.add(s.node(why))
	if members {
		p.add(Step{Who: Members, Why: "only while upstream can't be asked, if this node knows nothing of the tag"})
	}
	p.add(last)
}

// upstream plans for the servers of a route, and for when they have nothing.
func (p *Plan) upstream(ref reference.Reference, route Route, s Surroundings, why string) {
	if !route.AsksUpstream() {
		p.add(Step{Who: Client, Why: "404: the route asks nothing outside of the cluster"})
		return
	}
	servers := route.Servers()
	for i, server := range servers {
		if i > 0 {
			why = "the one before can't answer"
		}
		address, err := server.URLFor(ref, "manifests")
		if err != nil {
			p.add(Step{Who: Upstream, URL: server.URL, Why: "can't be asked: " + err.Error()})
			continue
		}
		step := Step{Who: Upstream, URL: address, Why: why}
		if s.Own != nil {
			step.Credentials = s.whose(ref.Repository, server.URL, i == len(servers)-1)
		}
		p.add(step)
	}
	p.add(Step{Who: Client, Why: "404 with the reason, if none of them has it"})
}

// URLFor is what a server is asked for.
func (s Server) URLFor(ref reference.Reference, kind string) (string, error) {
	path, err := s.Rewrite(ref.Repository)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return "", fmt.Errorf("endpoint %q is no URL", s.URL)
	}
	u = u.JoinPath("v2", path, kind, ref.Object())
	if s.SendNamespace {
		u.RawQuery = url.Values{"ns": {ref.Registry}}.Encode()
	}
	return u.String(), nil
}

func (p *Plan) add(s Step) { p.Steps = append(p.Steps, s) }

func (s Surroundings) node(why string) Step {
	stores := "the cache"
	if s.Containerd {
		stores = "containerd and the cache"
	}
	return Step{Who: Node, Why: stores + ": " + why}
}

func named(rule, match string) string {
	if rule == "default" {
		return "default"
	}
	return rule + " (" + match + ")"
}

// plain writes a duration as one would in the configuration: 5m and not 5m0s.
func plain(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

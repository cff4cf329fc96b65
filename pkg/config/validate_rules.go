package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/pattern"
	"github.com/kioo-dev/kioo/pkg/reference"
)

func (c *Config) validateRegistries(v *validation) {
	seen := make(map[string]string)
	for i := range c.Registries {
		r, field := &c.Registries[i], fmt.Sprintf("registries[%d]", i)
		p, err := pattern.Parse(r.Match)
		switch {
		case r.Match == "":
			v.add(field+".match", `is missing, expected a pattern such as quay.io, "quay.io/org/*" or "*"`)
		case err != nil:
			v.add(field+".match", "%v", err)
		default:
			r.Match = p.String()
			v.shadowed(field+".match", r.Match, "*", seen)
		}
		if wrong := oneOf(r.Action, Allow, Deny, Local); wrong != "" {
			v.add(field+".action", "%s", wrong)
		}
		if r.Action != Allow && len(r.Endpoints) > 0 {
			v.add(field+".endpoints", "are never asked, as action is %s", r.Action)
		}
		within(v, field+".maxConcurrentRequests", r.MaxConcurrentRequests, 1, 1024)
		if r.MaxBytesPerSecond != 0 {
			within(v, field+".maxBytesPerSecond", r.MaxBytesPerSecond, 64<<10, 1<<50)
		}
		urls := make(map[string]int)
		for j, e := range r.Endpoints {
			at := fmt.Sprintf("%s.endpoints[%d]", field, j)
			e.validate(v, at, r.Match)
			server := strings.TrimRight(e.URL, "/") + " " + e.Repository
			if first, ok := urls[server]; ok && e.URL != "" {
				v.add(at+".url", "is the same as %s.endpoints[%d].url", field, first)
			}
			urls[server] = j
		}
	}
}

// shadowed notes a rule that no request can reach, because an earlier one has the same pattern or fits everything.
func (v *validation) shadowed(field, match, all string, seen map[string]string) {
	for _, earlier := range []string{match, all} {
		if first, ok := seen[earlier]; ok {
			v.add(field, "is %s, but %s is %s and comes first, so that this one never holds", quote(match), first, quote(earlier))
			return
		}
	}
	seen[match] = field
}

func (e *Endpoint) validate(v *validation, field, match string) {
	u, wrong := parseEndpoint(e.URL, match)
	if wrong != "" {
		v.add(field+".url", "%s", wrong)
	} else if u.Scheme == "http" && (e.CAFile != "" || e.ClientCertFile != "") {
		v.add(field+".url", "is %s, and a connection without TLS has no use for caFile and clientCertFile", quote(e.URL))
	}
	sample := strings.NewReplacer(RegistryVariable, "registry.example.com", RepositoryVariable, "a/b", RestVariable, "b").Replace(e.Repository)
	if err := reference.CheckPath(sample); err != nil || e.Repository == "" {
		v.add(field+".repository", "is %s, expected what becomes a repository's name, such as %s", quote(e.Repository), quote("hub/"+RepositoryVariable))
	}
	switch {
	case e.ClientCertFile != "" && e.ClientKeyFile == "":
		v.add(field+".clientKeyFile", "is missing, the key of clientCertFile")
	case e.ClientCertFile == "" && e.ClientKeyFile != "":
		v.add(field+".clientCertFile", "is missing, the certificate of clientKeyFile")
	}
}

// parseEndpoint checks an endpoint's URL, and says what is wrong with it. Secrets do not belong into it, so none get
// into messages.
func parseEndpoint(raw, match string) (u *url.URL, wrong string) {
	if raw == "" {
		return nil, "is missing, expected a URL such as https://registry.example.com"
	}
	if strings.Contains(raw, RegistryVariable) {
		host, _, _ := strings.Cut(match, "/")
		if !strings.Contains(host, "*") {
			return nil, fmt.Sprintf("has %s, which is for rules that fit several registries: write the host", RegistryVariable)
		}
		scheme, path, _ := strings.Cut(raw, "://"+RegistryVariable)
		if strings.Contains(path, RegistryVariable) || path != "" && path[0] != '/' {
			return nil, "has " + RegistryVariable + " elsewhere than as the whole host"
		}
		raw = scheme + "://registry.invalid" + path
	}
	u, wrong = parseURL(raw)
	if wrong != "" {
		return nil, wrong
	}
	switch {
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return nil, "has a query or a fragment, which an endpoint can't have"
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v2"):
		return nil, "ends in /v2, which is added to it: leave it out"
	}
	return u, ""
}

func parseURL(raw string) (u *url.URL, wrong string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, "is not a URL such as https://registry.example.com"
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, "has the scheme " + quote(u.Scheme) + ", expected https:// or http://"
	case u.User != nil:
		return nil, "has a user name or password: put them into a file"
	}
	if _, err := reference.URLHost(u); err != nil {
		return nil, "has the host " + quote(u.Host) + ", expected a host with an optional port"
	}
	return u, ""
}

func (t *Tags) validate(v *validation) {
	const h = time.Hour
	seen := make(map[string]string)
	for i := range t.Rules {
		r, field := &t.Rules[i], fmt.Sprintf("tags.rules[%d]", i)
		p, err := pattern.ParseTag(r.Match)
		switch {
		case r.Match == "":
			v.add(field+".match", `is missing, expected a pattern such as "*:latest"`)
		case err != nil:
			v.add(field+".match", "%v", err)
		default:
			r.Match = p.String()
			v.shadowed(field+".match", r.Match, "*:*", seen)
		}
		if wrong := oneOf(r.Policy, PeersFirst, UpstreamFirst, UpstreamOnly, Never); wrong != "" {
			v.add(field+".policy", "%s", wrong)
		}
		within(v, field+".freshFor", r.FreshFor, 0, 30*24*h)
		within(v, field+".maxAge", r.MaxAge, 0, 365*24*h)
		within(v, field+".maxStale", r.MaxStale, 0, 365*24*h)
		if r.MaxAge != 0 && r.Policy != PeersFirst {
			v.add(field+".maxAge", "is for peers-first, and policy is %s", r.Policy)
		}
		if r.MaxStale != 0 && r.Policy != PeersFirst && r.Policy != UpstreamFirst {
			v.add(field+".maxStale", "is for peers-first and upstream-first, and policy is %s", r.Policy)
		}
	}
	within(v, "tags.negativeFor", t.NegativeFor, 0, h)
	within(v, "tags.cacheControl.most", t.CacheControl.Most, 0, 30*24*h)
	within(v, "tags.cacheControl.least", t.CacheControl.Least, 0, 30*24*h)
	if c := t.CacheControl; c.Most != 0 && c.Least > c.Most {
		v.add("tags.cacheControl.least", "is %s, more than cacheControl.most, %s", plain(c.Least), plain(c.Most))
	}
}

func (f *ForeignLayers) validate(v *validation) {
	if wrong := oneOf(f.Action, ForeignFetch, ForeignRedirect, ForeignRefuse); wrong != "" {
		v.add("foreignLayers.action", "%s", wrong)
	}
	for i, host := range f.Hosts {
		if err := pattern.CheckHost(host); err != nil {
			v.add(fmt.Sprintf("foreignLayers.hosts[%d]", i), "%v", err)
		}
	}
	v.unique("foreignLayers.hosts", f.Hosts)
	v.networks("foreignLayers.networks", f.Networks)
}

func (v *validation) networks(field string, list []string) {
	for i, n := range list {
		if _, err := netip.ParsePrefix(n); err != nil {
			v.add(fmt.Sprintf("%s[%d]", field, i), "is %s, not a network such as 10.0.0.0/8", quote(n))
		}
	}
	v.unique(field, list)
}

// Prefixes gives networks that validation has seen.
func Prefixes(networks []string) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range networks {
		if p, err := netip.ParsePrefix(n); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func (p *Prefetch) validate(v *validation) {
	for i, image := range p.Images {
		field := fmt.Sprintf("prefetch.images[%d]", i)
		if image.Image == "" {
			v.add(field+".image", "is missing, expected an image such as docker.io/library/nginx:1.27")
		} else if _, err := reference.Parse(image.Image); err != nil {
			v.add(field+".image", "%v", err)
		}
		within(v, field+".copies", image.Copies, 0, 65536)
		for j, zone := range image.Zones {
			if len(zone) > maxZone || !zoneGrammar.MatchString(zone) {
				v.add(fmt.Sprintf("%s.zones[%d]", field, j), "is %s, not a zone such as eu-central-1a", quote(zone))
			}
		}
	}
	within(v, "prefetch.parallel", p.Parallel, 1, 64)
	if p.Every != 0 {
		within(v, "prefetch.every", p.Every, time.Minute, 30*24*time.Hour)
	}
}

func (e *Events) validate(v *validation) {
	within(v, "events.maxQueued", e.MaxQueued, 1, 10_000_000)
	seen := make(map[string]string)
	for i, p := range e.Endpoints {
		field := fmt.Sprintf("events.endpoints[%d]", i)
		u, wrong := parseURL(p.URL)
		switch {
		case p.URL == "":
			v.add(field+".url", "is missing, expected a URL such as https://events.example.com/kioo")
		case wrong != "":
			v.add(field+".url", "%s", wrong)
		case u.Scheme == "http" && p.CAFile != "":
			v.add(field+".url", "is %s, and a connection without TLS has no use for caFile", quote(p.URL))
		case seen[p.URL] != "":
			v.add(field+".url", "is the same as %s", seen[p.URL])
		}
		seen[p.URL] = field + ".url"
		for j, action := range p.Actions {
			if wrong := oneOf(action, "pull", "push", "delete"); wrong != "" {
				v.add(fmt.Sprintf("%s.actions[%d]", field, j), "%s", wrong)
			}
		}
		v.unique(field+".actions", p.Actions)
		within(v, field+".timeout", p.Timeout, time.Millisecond, time.Minute)
	}
}

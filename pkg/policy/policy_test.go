package policy

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/reference"
)

func parse(t testing.TB, file string) *Policy {
	t.Helper()
	cfg, err := config.Parse("kioo.yaml", []byte("apiVersion: kioo.dev/v1alpha1\nkind: MirrorConfiguration\n"+file))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func repo(t testing.TB, s string) reference.Repository {
	t.Helper()
	ref, err := reference.Parse(s + ":x")
	if err != nil {
		t.Fatal(err)
	}
	return ref.Repository
}

func TestAccess(t *testing.T) {
	p := parse(t, `
registries:
  - {match: air.example.com, action: local}
access:
  rules:
    - {match: quay.io/org/app, mode: own}
    - {match: quay.io/*, mode: verify}
    - {match: "*/team/*", mode: relay}
`)
	for name, want := range map[string]string{
		"quay.io/org/app":           config.AccessOwn,
		"quay.io/org/app/more":      config.AccessVerify,
		"quay.io/team/app":          config.AccessVerify,
		"ghcr.io/team/app":          config.AccessRelay,
		"docker.io/library/nginx":   config.AccessAuto,
		"quay.io.example.com/org/a": config.AccessAuto,
		"air.example.com/a":         config.AccessOwn, // There is nobody to ask.
	} {
		if got := p.Access(repo(t, name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestRoute(t *testing.T) {
	p := parse(t, `
registries:
  - {match: quay.io/secret/*, action: deny}
  - match: quay.io/org/*
    endpoints:
      - {url: "https://harbor.example.com", repository: "quay/{*}"}
      - {url: "https://quay.io"}
  - {match: air.example.com, action: local}
  - {match: alone.example.com, peers: false, maxBytesPerSecond: 1Mi}
  - match: "*.example.com"
    endpoints: [{url: "https://{registry}/sub", repository: "{registry}/{repository}", sendNamespace: true}]
  - {match: docker.io}
  - {match: "*", action: deny}
`)
	for name, want := range map[string]struct {
		rule, action string
		peers        bool
		asked        []string
	}{
		"quay.io/secret/a":         {"registries[0]", "deny", true, nil},
		"quay.io/org/a/b":          {"registries[1]", "allow", true, []string{"https://harbor.example.com/v2/quay/a/b/manifests/x", "https://quay.io/v2/org/a/b/manifests/x"}},
		"quay.io/other":            {"registries[6]", "deny", true, nil},
		"air.example.com/a":        {"registries[2]", "local", true, nil},
		"alone.example.com/a":      {"registries[3]", "allow", false, []string{"https://alone.example.com/v2/a/manifests/x"}},
		"reg.example.com:5000/a/b": {"registries[6]", "deny", true, nil}, // A port is part of the name.
		"reg.example.com/a/b":      {"registries[4]", "allow", true, []string{"https://reg.example.com/sub/v2/reg.example.com/a/b/manifests/x?ns=reg.example.com"}},
		"docker.io/library/nginx":  {"registries[5]", "allow", true, []string{"https://registry-1.docker.io/v2/library/nginx/manifests/x"}},
		"169.254.169.254/latest":   {"registries[6]", "deny", true, nil},
	} {
		got := p.Route(repo(t, name))
		var asked []string
		for _, s := range got.Servers() {
			u, err := s.URLFor(reference.Reference{Repository: repo(t, name), Tag: "x"}, "manifests")
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			asked = append(asked, u)
		}
		if got.Name != want.rule || got.Action != want.action || got.Peers != want.peers || !slices.Equal(asked, want.asked) {
			t.Errorf("%s: %s %s %t %v", name, got.Name, got.Action, got.Peers, asked)
		}
		if p.Denied(repo(t, name)) != (want.action == "deny") {
			t.Errorf("%s: denied is wrong", name)
		}
	}
	if !p.Denied(reference.Repository{Registry: "ghcr.io"}) || p.Denied(reference.Repository{Registry: "docker.io"}) {
		t.Error("a whole registry is denied wrongly")
	}
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct{ match, template, name, want string }{
		{"*", "{registry}/{repository}", "localhost:5000/a", "localhost-5000/a"},
		{"*", "x/{registry}/{*}", "quay.io/a/b", "x/quay.io/a/b"},
		{"quay.io/org-*", "mirror/{*}", "quay.io/org-one/a", "mirror/one/a"},
		{"quay.io/org/app", "mirror/{*}", "quay.io/org/app", "mirror/org/app"},
		{"quay.io/org*", "mirror/{*}", "quay.io/org/app", ""},                       // It would have an empty component.
		{"quay.io/*", "{*}/" + strings.Repeat("a/", 29) + "b", "quay.io/a/b/c", ""}, // It would nest too deeply.
	} {
		p := parse(t, fmt.Sprintf("registries: [{match: %q, endpoints: [{url: 'https://e.example.com', repository: %q}]}]\n", tt.match, tt.template))
		got, err := p.Route(repo(t, tt.name)).Servers()[0].Rewrite(repo(t, tt.name))
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %s: %q, %v", tt.template, tt.name, got, err)
		}
	}
}

func TestRelaysPathForm(t *testing.T) {
	p := parse(t, "access: {relayPathForm: ['registry.example.com:443', 'quay.io/org/*']}\n")
	for name, want := range map[string]bool{
		"registry.example.com/a": true, "registry.example.com:5000/a": false, "quay.io/org/a": true, "quay.io/a": false, "docker.io/library/a": false,
	} {
		if p.RelaysPathForm(repo(t, name)) != want {
			t.Errorf("%s: %t", name, !want)
		}
	}
	if none := parse(t, "registries: []\n"); none.RelaysPathForm(repo(t, "quay.io/a")) {
		t.Error("it relays by default")
	}
}

// FuzzRewrite checks that whatever a template makes of a repository is a name, and so never leads out of /v2/.
func FuzzRewrite(f *testing.F) {
	f.Add("quay.io/*", "mirror/{*}", "quay.io", "org/app")
	f.Add("*", "{registry}/{repository}", "[fd00::1]:80", "a")
	f.Fuzz(func(t *testing.T, match, template, registry, path string) {
		cfg := config.Default()
		e := config.DefaultEndpoint()
		e.URL, e.Repository = "https://e.example.com", template
		r := config.DefaultRegistry()
		r.Match, r.Endpoints = match, []config.Endpoint{e}
		cfg.Registries = []config.Registry{r}
		host, err := reference.ParseRegistry(registry)
		if err != nil || cfg.Validate() != nil {
			return
		}
		name, err := reference.NewRepository(host, path)
		if err != nil {
			return
		}
		p, err := New(cfg)
		if err != nil {
			t.Fatalf("%q is valid, but %v", match, err)
		}
		for _, s := range p.Route(name).Servers() {
			u, err := s.URLFor(reference.Reference{Repository: name, Tag: "t"}, "manifests")
			if err != nil {
				continue
			}
			got, err := url.Parse(u)
			if err != nil || got.Host != "e.example.com" && got.Host != reference.Server(host) || !strings.HasPrefix(got.Path, "/v2/") ||
				strings.Contains(got.Path, "..") || got.RawQuery != "" {
				t.Fatalf("%q %q %s: %s", match, template, name, u)
			}
		}
	})
}

// TestTagRules goes through every combination of a rule and of what is known, and compares with a model that says in
// one sentence for each policy what is to happen.
func TestTagRules(t *testing.T) {
	ages := []time.Duration{0, 30 * time.Second, time.Minute, time.Hour}
	var states []Known
	for _, age := range ages {
		states = append(states,
			Known{Known: true, Vouched: true, Own: true, Age: age}, Known{Known: true, Vouched: true, Age: age}, Known{Known: true, Age: age})
	}
	states = append(states, Known{})
	count := 0
	for _, policy := range []string{config.PeersFirst, config.UpstreamFirst, config.UpstreamOnly, config.Never} {
		for _, fresh := range []time.Duration{0, time.Minute, 2 * time.Hour} {
			for _, maxAge := range []time.Duration{0, 10 * time.Minute} {
				for _, maxStale := range []time.Duration{0, 10 * time.Minute} {
					for _, said := range []time.Duration{-1, 0, time.Minute} {
						rule := TagRule{TagRule: config.TagRule{Policy: policy, FreshFor: fresh, MaxAge: maxAge, MaxStale: maxStale}}
						for _, own := range states {
							for _, theirs := range states {
								for _, up := range []bool{true, false} {
									count++
									if got, want := decide(rule, own, theirs, said, up), model(rule, own, theirs, said, up); got != want {
										t.Fatalf("%+v, own %+v, theirs %+v, said %v, up %t: %s, want %s", rule.TagRule, own, theirs, said, up, got, want)
									}
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d combinations", count)
}

// decide does what the mirror does with a rule.
func decide(r TagRule, own, theirs Known, said time.Duration, up bool) string {
	switch {
	case r.Policy == config.Never:
		return "nobody"
	case r.Fresh(own, said):
		return "own"
	case r.MembersFirst() && r.BelieveMembers(own, theirs):
		return "members"
	case up:
		return "upstream"
	case r.FallBack(own):
		return "own, stale"
	case !own.Known && r.FallBack(theirs):
		return "members, stale"
	}
	return "failed"
}

// model says the same in other words.
func model(r TagRule, own, theirs Known, said time.Duration, up bool) string {
	confirmed := func(k Known, within time.Duration) bool { return k.Known && k.Vouched && k.Age < within }
	window := map[bool]time.Duration{true: r.FreshFor, false: said}[said < 0]
	notTooStale := func(k Known) bool { return k.Known && (r.MaxStale == 0 || k.Age <= r.MaxStale) }
	answers := []struct {
		by   string
		when bool
	}{
		{"nobody", r.Policy == "never"},
		{"own", confirmed(own, window) && (own.Own || r.Policy == "peers-first")},
		{"members", r.Policy == "peers-first" && confirmed(theirs, r.FreshFor)},
		{"members", r.Policy == "peers-first" && !own.Known && theirs.Known && r.MaxAge == 0},
		{"members", r.Policy == "peers-first" && !own.Known && theirs.Known && theirs.Vouched && theirs.Age <= r.MaxAge},
		{"upstream", up},
		{"failed", r.Policy == "upstream-only"},
		{"own, stale", notTooStale(own)},
		{"members, stale", !own.Known && notTooStale(theirs)},
	}
	for _, a := range answers {
		if a.when {
			return a.by
		}
	}
	return "failed"
}

func TestBounded(t *testing.T) {
	p := parse(t, "tags: {cacheControl: {least: 10s, most: 1h}}\n")
	off := parse(t, "tags: {cacheControl: {least: 0s, most: 0s}}\n")
	for _, tt := range []struct {
		maxAge time.Duration
		said   bool
		want   time.Duration
	}{{0, true, 10 * time.Second}, {time.Minute, true, time.Minute}, {1 << 62, true, time.Hour}, {time.Minute, false, -1}} {
		if got := p.Bounded(tt.maxAge, tt.said); got != tt.want {
			t.Errorf("%v: %v", tt.maxAge, got)
		}
		if got := off.Bounded(tt.maxAge, tt.said); got != -1 {
			t.Errorf("off, %v: %v", tt.maxAge, got)
		}
	}
}

// Every request is compared with the rules, so that costs next to nothing.
func TestNoAllocations(t *testing.T) {
	p := parse(t, "registries: [{match: quay.io/org, action: deny}, {match: ghcr.io}, {match: 'quay.io/org/*'}]\n")
	ref := reference.Reference{Repository: repo(t, "docker.io/library/nginx"), Tag: "1.27"}
	if n := testing.AllocsPerRun(100, func() {
		if p.Denied(ref.Repository) || p.Tag(ref).Policy != config.PeersFirst || !p.Route(ref.Repository).AsksUpstream() {
			t.Error("decided wrongly")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTagRuleOrder(t *testing.T) {
	p := parse(t, "tags: {rules: [{match: 'quay.io/org/*:*', policy: never}, {match: '*:v*', freshFor: 5s}]}\n")
	for name, want := range map[string]string{
		"quay.io/org/a:latest": "never", "quay.io/a:latest": "upstream-first", "quay.io/a:v1": "peers-first", "quay.io/a:1": "peers-first",
	} {
		ref, err := reference.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Tag(ref); got.Policy != want {
			t.Errorf("%s: %s by %s", name, got.Policy, got.Name)
		}
	}
}

func TestForeignURLs(t *testing.T) {
	p := parse(t, "foreignLayers: {hosts: ['*.example.com', 'files.io:8443', '*'], networks: [10.1.0.0/16]}\n").Foreign()
	strict := parse(t, "foreignLayers: {hosts: ['*.example.com', 'files.io:8443'], allowHTTP: true}\n").Foreign()
	for raw, want := range map[string][2]bool{
		"https://a.example.com/x": {true, true}, "http://a.example.com/x": {false, true}, "https://a.example.com:443/x": {true, true},
		"https://a.example.com:22/x": {true, false}, "https://files.io:8443/x": {true, true}, "https://files.io/x": {true, false},
		"ftp://a.example.com/x": {false, false}, "https://user:pw@a.example.com/x": {false, false}, "https:a.example.com": {false, false},
		"https://169.254.169.254/x": {false, false}, "https://10.1.0.1/x": {true, false}, "https://10.2.0.1/x": {false, false},
		"https://10.2.0.1:8443/x": {false, false}, "https://[::1]:8443/x": {false, false}, "https://[::1]/x": {false, false}, "https://[::ffff:7f00:1]/x": {false, false}, "file:///etc/passwd": {false, false},
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(u); (err == nil) != want[0] {
			t.Errorf("%s: %v", raw, err)
		}
		if err := strict.Check(u); (err == nil) != want[1] {
			t.Errorf("%s, strict: %v", raw, err)
		}
	}
	if !NonDistributable("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip") || NonDistributable("application/vnd.oci.image.layer.v1.tar") ||
		!NonDistributable("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") {
		t.Error("media types")
	}
}

func TestExplain(t *testing.T) {
	p := parse(t, `
registries:
  - {match: denied.example.com, action: deny}
  - {match: air.example.com, action: local}
  - match: quay.io
    endpoints: [{url: "https://cache.example.com", repository: "quay/{repository}"}, {url: "https://quay.io"}]
tags: {rules: [{match: "*:never", policy: never}, {match: "*:only", policy: upstream-only}]}
`)
	who := func(name string) []string {
		ref, err := reference.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, s := range p.Explain(ref, Surroundings{Members: true}).Steps {
			all = append(all, strings.TrimSpace(s.Who+" "+s.URL))
			if s.Why == "" {
				t.Errorf("%s: no reason for %s", name, s.Who)
			}
		}
		return all
	}
	quay := func(object string) (string, string) {
		return "upstream https://cache.example.com/v2/quay/a/manifests/" + object, "upstream https://quay.io/v2/a/manifests/" + object
	}
	v1, v1b := quay("v1")
	latest, latestB := quay("latest")
	only, onlyB := quay("only")
	for name, want := range map[string][]string{
		"denied.example.com/a:v1":         {"client"},
		"air.example.com/a:v1":            {"node", "members", "client"},
		"quay.io/a:never":                 {"client"},
		"quay.io/a:v1":                    {"node", "members", v1, v1b, "node", "members", "client"},
		"quay.io/a:latest":                {"node", latest, latestB, "node", "members", "client"},
		"quay.io/a:only":                  {"node", only, onlyB, "client"},
		"air.example.com/a@" + someDigest: {"node", "members", "client"},
	} {
		if diff := cmp.Diff(want, who(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

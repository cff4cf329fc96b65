package pattern

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/pkg/reference"
)

func TestRepository(t *testing.T) {
	for _, tt := range []struct {
		pattern, registry, path string
		want                    bool
		rest                    string
	}{
		{"quay.io", "quay.io", "org/app", true, "org/app"},
		{"Quay.IO", "quay.io", "org/app", true, "org/app"},
		{"quay.io", "quay.io:5443", "org/app", false, ""},
		{"quay.io/org/*", "quay.io", "org/team/app", true, "team/app"},
		{"quay.io/org/*", "quay.io", "organ/app", false, ""},
		{"quay.io/*/app", "quay.io", "a/b/app", true, "a/b"},
		{"quay.io/*/app", "quay.io", "app", false, ""},
		{"quay.io/org/app", "quay.io", "org/app", true, "org/app"},
		{"*.example.com", "evil.io", "a.example.com/x", false, ""}, // A repository is no registry.
		{"*.example.com/*", "evil.io", "a.example.com/x", false, ""},
		{"*.example.com", "a.example.com", "x", true, "x"},
		{"*/library/*", "docker.io", "library/nginx", true, "nginx"},
		{"*", "localhost:5000", "a", true, "a"},
		{"localhost:5000", "localhost:5000", "a", true, "a"},
		{"[fd00::1]:5000/*", "[fd00::1]:5000", "a", true, "a"}, // Brackets are no class of characters.
		{"docker.io/*ab*ab*", "docker.io", "aab", false, ""},
		{"docker.io/*ab*ab*", "docker.io", "xabyabz", true, "z"},
		{"docker.io/a*a", "docker.io", "a", false, ""},
		{"docker.io/a*a", "docker.io", "aa", true, ""},
	} {
		p, err := Parse(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		rest, got := p.Repository(reference.Repository{Registry: tt.registry, Path: tt.path})
		if got != tt.want || got && rest != tt.rest {
			t.Errorf("%s on %s/%s: %t, %q", tt.pattern, tt.registry, tt.path, got, rest)
		}
	}
	if _, ok := (Pattern{}).Repository(reference.Repository{}); ok {
		t.Error("the zero pattern matches")
	}
}

// However a rule or a request spells a registry, the rule holds.
func TestSpellings(t *testing.T) {
	for registry, spellings := range map[string][]string{
		"registry.example.com": {"registry.example.com", "registry.example.com:443", "Registry.Example.com", "registry.example.com.", "registry.example.com:0443"},
		"docker.io":            {"docker.io", "index.docker.io", "registry-1.docker.io", "docker.io:443", "registry-1.docker.io.", "registry.hub.docker.com"},
		"[::1]:5000":           {"[::1]:5000", "[0:0::1]:05000"},
		"10.0.0.1":             {"10.0.0.1", "[::ffff:10.0.0.1]:443"},
	} {
		for _, rule := range spellings {
			for _, asked := range spellings {
				repo, err := reference.NewRepository(asked, "org/app")
				if err != nil {
					t.Fatal(err)
				}
				for _, suffix := range []string{"", "/*", "/org/*", "/org/app"} {
					if p, err := Parse(rule + suffix); err != nil {
						t.Errorf("%s: %v", rule+suffix, err)
					} else if _, ok := p.Repository(repo); !ok || p.Registry(repo.Registry) != (suffix == "" || suffix == "/*") {
						t.Errorf("%s does not hold for %s, which is %s", rule+suffix, asked, registry)
					}
				}
				if p, err := ParseTag(rule + "/org/*:v*"); err != nil || !p.Tag(reference.Reference{Repository: repo, Tag: "v1"}) {
					t.Errorf("%s:v* does not hold for %s: %v", rule, asked, err)
				}
			}
		}
	}
	hub, err := reference.NewRepository("registry-1.docker.io", "org/app")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"*.docker.io": true, "registry-*": true, "*hub.docker.com": true, "*.docker.io/other/*": false, "*.docker.com.*": false} {
		if p, err := Parse(text); err != nil {
			t.Error(err)
		} else if _, ok := p.Repository(hub); ok != want {
			t.Errorf("%s for Docker Hub: %t", text, ok)
		}
	}
}

func TestTag(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*:latest", "docker.io/library/nginx:latest", true},
		{"*:latest", "docker.io/library/nginx:latest-alpine", false},
		{"*:latest", "docker.io/library/latest:1", false},
		{"quay.io/org/*:*", "quay.io/org/team/app:1", true},
		{"quay.io/*/app:*-dev", "quay.io/org/app:1-dev", true},
		{"quay.io/*/app:*-dev", "quay.io/org/app:1-dev-2", false},
		{"localhost:5000:*", "localhost:5000/a:b", true},
		{"localhost:5000/a:b", "localhost:5000/a:b", true},
		{"localhost:5000/a:b", "localhost:5000/a:bc", false},
		{"*:5000", "docker.io/library/a:5000", true},
		{"quay.io/*:latest", "quay.io/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", false},
	} {
		p, err := ParseTag(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		ref, err := reference.Parse(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Tag(ref); got != tt.want {
			t.Errorf("%s on %s: %t", tt.pattern, tt.name, got)
		}
		if again, err := ParseTag(p.String()); err != nil || again != p {
			t.Errorf("%s: %v, %v", p, again, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, s := range []string{"", "nginx", "library/nginx", "docker.io/nginx", "Quay.io/Org", "https://quay.io", "quay.io/", "quay.io//a", "quay.io/a b", "quay.io/../a",
		"quay.io:0", "*.example.com:443", "*:443", "*.example.com.", "127.1", strings.Repeat("a", maxLength+1)} {
		if p, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %v", s, p)
		}
	}
	for _, s := range []string{"", "quay.io/a", "localhost:5000", "*", "quay.io/a:", "quay.io/a:b c", ":latest", "[::1]", "quay.io/a:-b"} {
		if p, err := ParseTag(s); err == nil {
			t.Errorf("ParseTag(%q) = %v", s, p)
		}
	}
}

func TestHosts(t *testing.T) {
	h := Hosts{"*.Example.com", "files.io:8443"}
	for host, want := range map[string]bool{"a.example.com": true, "example.com": false, "FILES.io:8443": true, "files.io": false, "x.a.example.com": true} {
		if h.Match(host) != want {
			t.Errorf("%s: %t", host, !want)
		}
	}
}

// FuzzPattern compares matching with regular expressions, part by part, and the text of a pattern with the pattern.
func FuzzPattern(f *testing.F) {
	f.Add("quay.io/org/*:*-dev", "quay.io", "org/a/b", "1-dev")
	f.Add("*:latest", "docker.io", "library/nginx", "latest")
	f.Add("*.a*b/**c:x", "q.ab", "zzc", "x")
	f.Fuzz(func(t *testing.T, text, registry, path, tag string) {
		p, err := ParseTag(text)
		if err != nil {
			return
		}
		again, err := ParseTag(p.String())
		if err != nil || again != p {
			t.Fatalf("%q: %v became %v, %v", text, p, again, err)
		}
		if strings.ContainsAny(registry+path+tag, "\n") {
			return // What no name has, and no dot of a regular expression.
		}
		simple := func(pattern, text string) bool {
			re := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `(?s:.*)`)
			return regexp.MustCompile(`^(?:` + re + `)$`).MatchString(text)
		}
		if name, err := reference.ParseRegistry(registry); err != nil || name != registry || name == reference.DockerHub {
			return // What nobody is asked about, and what goes by several names.
		}
		want := tag != "" && simple(p.host, registry) && simple(p.path, path) && simple(p.tag, tag)
		ref := reference.Reference{Repository: reference.Repository{Registry: registry, Path: path}, Tag: tag}
		if got := p.Tag(ref); got != want {
			t.Fatalf("%q on %q %q %q: %t", text, registry, path, tag, got)
		}
		if rest, ok := p.Repository(ref.Repository); ok && !strings.Contains(path, rest) {
			t.Fatalf("%q on %q: the * stands for %q", text, path, rest)
		}
	})
}

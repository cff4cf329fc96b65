package reference

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// Whoever chooses the spelling does not choose the name by it.
func TestOneNameForEachRegistry(t *testing.T) {
	for want, spellings := range map[string][]string{
		"registry.example.com":       {"Registry.Example.COM", "registry.example.com:443", "registry.example.com:0443", "registry.example.com.", "registry.example.com.:443", "ｒegistry.example.com", "registry。example。com"},
		"registry.example.com:80":    {"registry.example.com:080"},
		"registry.example.com:5443":  {"REGISTRY.example.com:05443", "registry.example.com.:5443"},
		"docker.io":                  {"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "Docker.IO:443", "Registry-1.Docker.IO.:443", "index.docker.io:443"},
		"docker.io:5000":             nil,
		"registry-1.docker.io:80":    nil,
		"localhost":                  {"localhost:80", "LocalHost.:080"},
		"localhost:443":              nil, // It is asked without TLS, so this is another server.
		"127.0.0.1":                  {"127.0.0.1:80", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]:80", "127.0.0.1."},
		"10.0.0.1:5000":              {"[::FFFF:10.0.0.1]:5000", "[0:0:0:0:0:ffff:a00:1]:05000"},
		"10.0.0.1":                   {"10.0.0.1:443"},
		"[::1]:5000":                 {"[0:0:0:0:0:0:0:1]:5000", "[0000::0001]:5000", "[::0.0.0.1]:5000"},
		"[2001:db8::a]":              {"[2001:DB8:0::A]", "[2001:db8::a]:443"},
		"xn--bcher-kva.example":      {"bücher.example", "BÜCHER.example:443", "XN--Bcher-KVA.example"},
		"xn--bcher-kva.example:8443": {"bücher.example:8443"},
		"registry":                   {"REGISTRY:443"},
	} {
		for _, s := range append(spellings, want) {
			if got, err := ParseRegistry(s); got != want || err != nil {
				t.Errorf("%q is %q, %v; want %s", s, got, err, want)
			}
			repo, err := NewRepository(s, "org/app")
			if err != nil || repo != (Repository{Registry: want, Path: "org/app"}) {
				t.Errorf("%q has the repository %v, %v", s, repo, err)
			}
		}
	}
}

func TestNoRegistries(t *testing.T) {
	for _, s := range []string{
		strings.Repeat("a.", 127) + "aa", strings.Repeat("a.", 1000) + "a:443",
		"", ".", "..", ":443", "a..b", "-a.example", "a_b.example", "a.example..", "a.example:", "a.example:0", "a.example:65536", "a.example:+1", "a.example:4 43",
		"a.example:443:443", "2130706433", "127.1", "0x7f.0.0.1", "0177.0.0.1", "0x7f000001:5000", "1.2.3.4.5", "1.2.3.256", "example.0x", "example.123.",
		"[127.0.0.1]", "[::1", "::1", "[::1]]", "[fe80::1%eth0]", "[::1]x", "[]", "user@a.example", "a.example/b", "a%2eexample", "xn--\u00fc.example", "a\u200bb.example/", "a b",
	} {
		if got, err := ParseRegistry(s); err == nil {
			t.Errorf("%q is %q", s, got)
		}
	}
}

func TestURLHost(t *testing.T) {
	for text, want := range map[string]string{
		"https://Files.Example.com:443/a": "files.example.com", "http://files.example.com:443": "files.example.com:443", "http://files.example.com.:80/": "files.example.com",
		"https://files.example.com:80": "files.example.com:80", "https://[::FFFF:10.0.0.1]/": "10.0.0.1", "https://localhost:443": "localhost",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := URLHost(u); got != want || err != nil {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

// containerd keeps names as they were written, but for what all parsers of images' names do.
func TestAsWritten(t *testing.T) {
	for text, want := range map[string]string{
		"Registry.Example.com:443": "registry.example.com:443", "index.docker.io": "docker.io", "registry-1.docker.io": "registry-1.docker.io", "quay.io": "quay.io", "quay.io.": "quay.io",
	} {
		if got, err := AsWritten(text); got != want || err != nil {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	if got, err := AsWritten("127.1"); err == nil {
		t.Errorf("127.1 is %q", got)
	}
}

// FuzzParseRegistry checks that a name is its own name, that only names of DNS and addresses become one, and that
// names of images have it too.
func FuzzParseRegistry(f *testing.F) {
	for _, s := range []string{"quay.io:443", "[::ffff:1.2.3.4]:80", "bücher.example.", "0x7f.1", "LOCALHOST:80", "registry-1.docker.io:0443", "[::1]:5000", "xn--a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseRegistry(s)
		if err != nil {
			return
		}
		if again, err := ParseRegistry(name); err != nil || again != name {
			t.Fatalf("%q is %q, which is %q, %v", s, name, again, err)
		}
		if !hostGrammar.MatchString(name) {
			t.Fatalf("%q is %q", s, name)
		}
		u, err := url.Parse(BaseURL(name))
		if err != nil || name != DockerHub && u.Host != name {
			t.Fatalf("%q is asked at %v, %v", name, u, err)
		}
		if bare, err := URLHost(u); err != nil || name != DockerHub && bare != name {
			t.Fatalf("%q is asked at %q, %v", name, bare, err)
		}
		if written, err := AsWritten(s); err != nil {
			t.Fatalf("%q: %v", s, err)
		} else if again, err := ParseRegistry(written); err != nil || again != name {
			t.Fatalf("%q is %q, but as written %q is %q", s, name, written, again)
		}
		if !looksLikeHost(name) {
			return
		}
		ref, err := Parse(name + "/org/app:v1")
		if len(name) < 200 && (err != nil || ref.Registry != name || ref.String() != name+"/org/app:v1") {
			t.Fatalf("%q: %v, %v", name, ref, err)
		}
		if !slices.Contains(NamesOf(name), name) {
			t.Fatalf("%q is none of its names", name)
		}
	})
}

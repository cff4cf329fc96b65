package policy

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// Every kind of rule holds for a registry however a client spells it, in each of the forms that say a registry, and
// however the configuration spells it.
func TestRulesHoldForEverySpelling(t *testing.T) {
	for _, spellings := range [][]string{
		{"registry.example.com", "registry.example.com:443", "Registry.Example.COM", "registry.example.com.", "registry.example.com:0443"},
		{"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "docker.io:443", "registry-1.docker.io:443"},
		{"[2001:db8::1]:5000", "[2001:DB8:0:0::1]:5000", "[2001:db8::0001]:05000"},
		{"10.0.0.1:5000", "[::ffff:10.0.0.1]:5000", "[::ffff:a00:1]:5000"},
	} {
		for _, written := range spellings {
			p := parse(t, fmt.Sprintf("registries: [{match: %[1]q, action: deny}]\naccess: {rules: [{match: '%[1]s/org/*', mode: verify}]}\n"+
				"tags: {rules: [{match: '%[1]s/org/*:v*', policy: never}]}\n", written))
			one := parse(t, fmt.Sprintf("registries: [{match: '%s/org/app', action: deny}]\n", written))
			for _, asked := range spellings {
				for _, target := range []string{
					"/v2/org/app/manifests/v1?ns=" + url.QueryEscape(asked), "/v2/" + asked + "/org/app/manifests/v1",
				} {
					u, err := url.ParseRequestURI(target)
					if err != nil {
						t.Fatal(err)
					}
					req, err := reference.Resolver{Default: "other.example.com"}.Resolve(u)
					if err != nil {
						t.Errorf("%s: %v", target, err)
						continue
					}
					base := reference.Repository{Registry: req.Registry}
					if !p.Denied(req.Repository) || !p.Denied(base) || !one.Denied(req.Repository) {
						t.Errorf("registries: %s does not hold for %s", written, target)
					}
					if p.Access(req.Repository) != config.AccessVerify {
						t.Errorf("access: %s does not hold for %s", written, target)
					}
					if p.Tag(req.Reference).Answers() {
						t.Errorf("tags: %s does not hold for %s", written, target)
					}
				}
			}
		}
	}
}

// A server is asked where it was asked before.
func TestTheSameServerIsAsked(t *testing.T) {
	p, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{
		"registry.example.com:443": "https://registry.example.com", "registry.example.com:80": "https://registry.example.com:80", "registry.example.com:5000": "https://registry.example.com:5000",
		"localhost:80": "http://localhost", "localhost:443": "http://localhost:443", "127.0.0.1:5000": "http://127.0.0.1:5000", "registry-1.docker.io": "https://registry-1.docker.io",
		"index.docker.io:443": "https://registry-1.docker.io", "[::1]:80": "http://[::1]", "registry-1.docker.io:5000": "https://registry-1.docker.io:5000",
	} {
		name, err := reference.NewRepository(asked, "org/app")
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Route(name).Servers()[0].URL; got != want {
			t.Errorf("%s is asked at %s, want %s", asked, got, want)
		}
	}
}

func TestForeignHostsHoldForEverySpelling(t *testing.T) {
	f := parse(t, "foreignLayers: {hosts: [files.example.com, 'Other.example.com:8443'], allowHTTP: true}\n").Foreign()
	for text, ok := range map[string]bool{
		"https://files.example.com/a": true, "https://FILES.example.com.:443/a": true, "http://files.example.com:0080/a": true, "https://files.example.com:80/a": false,
		"https://other.example.com:08443/a": true, "https://other.example.com/a": false, "https://127.1/a": false, "https://xn--files.example.com/a": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Check(u); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

package reference

import "testing"

func TestOwner(t *testing.T) {
	for registry, want := range map[string]string{
		"docker.io": "docker.io", "registry.example.com": "example.com", "a.b.c.example.com:5000": "example.com",
		"registry.example.co.uk": "example.co.uk", "me.github.io": "github.io", "a.b.github.io": "github.io",
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com": "amazonaws.com",
		"localhost": "local", "localhost:5000": "local", "harbor.team.svc.cluster.local": "cluster.local",
		"10.1.2.3": "addresses", "10.1.2.3:5000": "addresses", "[2001:db8::1]:5000": "addresses", "[2001:db8::1]": "addresses",
	} {
		if got := Owner(registry); got != want {
			t.Errorf("%s: got %s, want %s", registry, got, want)
		}
	}
}

package content

import "testing"

func TestOwnerOf(t *testing.T) {
	for registry, want := range map[string]Owner{
		"docker.io":                              "docker.io",
		"Quay.IO.":                               "quay.io",
		"registry.example.com:5000":              "example.com",
		"a.b.c.example.co.uk":                    "example.co.uk",
		"x1.wild.example.com":                    "example.com",
		"someone.github.io":                      "github.io",
		"1.dkr.ecr.us-east-1.amazonaws.com":      "amazonaws.com",
		"2.dkr.ecr.us-east-1.amazonaws.com.cn":   "amazonaws.com.cn",
		"registry.kube-system.svc.cluster.local": "cluster.local",
		"hub.corp":                               "hub.corp",
		"localhost:5000":                         "local",
		"registry":                               "local",
		"co.uk":                                  "local",
		"":                                       "local",
		".":                                      "local",
		".com":                                   "local",
		"10.0.0.1":                               "addresses",
		"10.0.0.2:5000":                          "addresses",
		"[2001:db8::1]:443":                      "addresses",
		"[2001:db8::2]":                          "addresses",
		"bücher.example":                         "bücher.example",
		"a.kawasaki.jp":                          "local",
		"b.a.kawasaki.jp":                        "b.a.kawasaki.jp",
	} {
		if got := OwnerOf(registry); got != want {
			t.Errorf("OwnerOf(%q) gave %q, want %q", registry, got, want)
		}
	}
}

func FuzzOwnerOf(f *testing.F) {
	f.Add("registry.example.com:5000")
	f.Add("[::1]:5000")
	f.Add("..a..")
	f.Fuzz(func(t *testing.T, registry string) {
		if owner := OwnerOf(registry); owner == "" || len(owner) > len(registry)+len("addresses")+3*len(registry) {
			t.Errorf("OwnerOf(%q) gave %q", registry, owner)
		}
	})
}

package registry

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/policy"
)

// PolicyOf gives the policy of a configuration, for both kinds of tests of this package.
func PolicyOf(t testing.TB, rules string) *policy.Policy { return policyOf(t, rules) }

func policyOf(t testing.TB, rules string) *policy.Policy {
	t.Helper()
	cfg, err := config.Parse("kioo.yaml", []byte("apiVersion: kioo.dev/v1alpha1\nkind: MirrorConfiguration\n"+rules+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

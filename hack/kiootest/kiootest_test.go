package kiootest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kioo-dev/kioo/pkg/config"
)

func TestFileSaysTheSame(t *testing.T) {
	cfg := Config(t.TempDir(), map[string]string{"registry.example.com": "http://127.0.0.1:5000"})
	rule := config.DefaultTagRule()
	rule.FreshFor = 0
	cfg.Tags.Rules = []config.TagRule{rule}
	cfg.Cache.MaxBytes = 1 << 30
	data, err := file(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Parse("kioo.yaml", data)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if diff := cmp.Diff(cfg, got); diff != "" {
		t.Errorf("the file says something else (-want +got):\n%s\n%s", diff, data)
	}
}

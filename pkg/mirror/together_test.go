package mirror_test

import (
	"context"
	"testing"

	"github.com/opencontainers/go-digest"
)

// pull gets what a container runtime gets of the image.
func (m *resident) pull(ctx context.Context, o *origin, tag string) error {
	if err := want(o.manifest)(m.tag(ctx, tag)); err != nil {
		return err
	}
	if err := want(o.manifest)(m.manifest(ctx, digest.FromBytes(o.manifest))); err != nil {
		return err
	}
	for _, body := range [][]byte{o.config, o.layer} {
		if err := want(body)(m.blob(ctx, digest.FromBytes(body))); err != nil {
			return err
		}
	}
	return nil
}

// TestPullTogether has all members pull a new image at once: upstream sends everything about once.
func TestPullTogether(t *testing.T) {
	o := newOrigin(t)
	fleet := newFleet(t, 16, o, nil)
	took := together(t, fleet, func(ctx context.Context, m *resident) error { return m.pull(ctx, o, "v1") })
	t.Logf("%d members in %v", len(fleet), took)
	for name, object := range map[string]string{
		"tag": "v1", "config": digest.FromBytes(o.config).String(), "layer": digest.FromBytes(o.layer).String(),
	} {
		n := o.count(object)
		t.Logf("%s: %d requests upstream", name, n)
		if n < 1 || n > 2 {
			t.Errorf("upstream was asked %d times for the %s", n, name)
		}
	}
	if n := o.count(digest.FromBytes(o.manifest).String()); n > 1 {
		t.Errorf("upstream was asked %d times for the manifest, which came with the tag", n)
	}
}

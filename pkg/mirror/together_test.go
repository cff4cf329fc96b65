package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
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

const second = time.Second

func (o *origin) askedFew(t *testing.T, what, object string) {
	t.Helper()
	n := o.count(object)
	t.Logf("%s: %d requests upstream", what, n)
	if n < 1 || n > few {
		t.Errorf("upstream was asked %d times for the %s", n, what)
	}
}

// TestPullTogether has all members pull a new image at once: upstream sends everything about once.
func TestPullTogether(t *testing.T) {
	o := newOrigin(t)
	fleet := newFleet(t, pulling, o, nil)
	took := together(t, fleet, func(ctx context.Context, m *resident) error { return m.pull(ctx, o, "v1") })
	t.Logf("%d members in %v", len(fleet), took)
	o.askedFew(t, "tag", "v1")
	o.askedFew(t, "config", digest.FromBytes(o.config).String())
	o.askedFew(t, "layer", digest.FromBytes(o.layer).String())
	if n := o.count(digest.FromBytes(o.manifest).String()); n >= few {
		t.Errorf("upstream was asked %d times for the manifest, which came with the tag", n)
	}
}

// TestTagThatMoves is asked for upstream by each member each time, for none is believed by the others, and what it
// means is sent about once.
func TestTagThatMoves(t *testing.T) {
	const fresh = 300 * time.Millisecond
	o := newOrigin(t)
	cfg := config.Default()
	cfg.Tags.Rules = []config.TagRule{{Match: "*:*", Policy: config.UpstreamFirst, FreshFor: fresh}}
	rules, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fleet := newFleet(t, 6, o, func(c *mirror.Config) { c.Policy = rules })
	for round := range 3 {
		before := o.count("latest")
		together(t, fleet, func(ctx context.Context, m *resident) error { return want(o.manifest)(m.tag(ctx, "latest")) })
		if n := o.count("latest") - before; n != len(fleet) {
			t.Errorf("round %d: upstream was asked %d times by %d members", round, n, len(fleet))
		}
		time.Sleep(2 * fresh)
	}
	o.askedFew(t, "manifest", digest.FromBytes(o.manifest).String())
}

// TestAloneAsBefore has one member of a fleet pull: nothing waits for anybody.
func TestAloneAsBefore(t *testing.T) {
	o := newOrigin(t)
	fleet := newFleet(t, 3, o, nil)
	together(t, fleet[:1], func(ctx context.Context, m *resident) error { return m.pull(ctx, o, "v1") })
	if before := fleet[0].Earlier(reference.Reference{Repository: ref.Repository, Digest: digest.FromBytes(o.layer)}); !slices.Equal(before, []digest.Digest{digest.FromBytes(o.config)}) {
		t.Errorf("before the layer comes %v", before)
	}
	for object, n := range o.asked {
		if n != 1 {
			t.Errorf("%s: asked %d times", object, n)
		}
	}
	// What one has, the others get from it, whether discovery knows of it yet or not; but the trackers have to.
	time.Sleep(time.Second)
	o.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		t.Errorf("upstream was asked for %s again", r.URL.Path)
		return false
	})
	together(t, fleet[1:], func(ctx context.Context, m *resident) error {
		return want(o.manifest)(m.manifest(ctx, digest.FromBytes(o.manifest)))
	})
}

// trackerOf gives the member closest to a tag.
func trackerOf(fleet []*resident, tag string) *resident {
	name := reference.Reference{Repository: ref.Repository, Tag: tag}.String()
	closest := fleet[0].disc.Nearest(discovery.TagKey(name), 1)[0].ID
	return fleet[slices.IndexFunc(fleet, func(m *resident) bool { return m.disc.Self().ID == closest })]
}

// TestMembersFail has members fail before and while others rely on them.
func TestMembersFail(t *testing.T) {
	for _, test := range []struct {
		name string
		// before is done to the tracker, and during to the tracker and the leader when upstream is asked first.
		before func(tracker *resident)
		during func(tracker, leader *resident)
	}{
		{name: "tracker is gone", before: func(c *resident) { c.mute() }},
		{name: "tracker goes while all wait", during: func(c, _ *resident) { c.mute() }},
		{name: "leader goes", during: func(_, l *resident) {
			l.Close()
			l.stop()
		}},
		{name: "leader falls silent", during: func(_, l *resident) { l.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOrigin(t)
			fleet := newFleet(t, 6, o, nil)
			c := trackerOf(fleet, "v1")
			if test.before != nil {
				test.before(c)
			}
			var once sync.Once
			var failed atomic.Pointer[resident]
			done := make(chan struct{})
			defer close(done)
			o.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
				hang := false
				once.Do(func() {
					if test.during == nil {
						return
					}
					time.Sleep(100 * time.Millisecond) // So that the others wait already.
					number, err := strconv.Atoi(r.UserAgent())
					if err != nil {
						t.Error(err)
						return
					}
					leader := fleet[number]
					if strings.HasPrefix(test.name, "leader") {
						failed.Store(leader)
						hang = true
					}
					test.during(c, leader)
				})
				if hang {
					<-done
				}
				return hang
			})
			took := together(t, fleet, func(ctx context.Context, m *resident) error {
				got, err := m.tag(ctx, "v1")
				if m == failed.Load() {
					return nil
				}
				return want(o.manifest)(got, err)
			})
			t.Logf("took %v", took)
			if took > soon {
				t.Errorf("took %v", took)
			}
			o.askedFew(t, "tag", "v1")
		})
	}
}

// TestUpstreamRefuses has upstream say no to everybody: all get the answer that they would get alone, and soon.
func TestUpstreamRefuses(t *testing.T) {
	for status, kind := range map[int]error{
		http.StatusNotFound: upstream.ErrNotFound, http.StatusUnauthorized: upstream.ErrDenied,
		http.StatusTooManyRequests: upstream.ErrRateLimited, http.StatusServiceUnavailable: upstream.ErrUnavailable,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			o := newOrigin(t)
			o.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(status)
				return true
			})
			fleet := newFleet(t, 6, o, nil)
			for object, get := range map[string]func(context.Context, *resident) error{
				"v1": func(ctx context.Context, m *resident) error { _, err := m.tag(ctx, "v1"); return err },
				digest.FromBytes(o.manifest).String(): func(ctx context.Context, m *resident) error {
					_, err := m.manifest(ctx, digest.FromBytes(o.manifest))
					return err
				},
			} {
				took := together(t, fleet, func(ctx context.Context, m *resident) error {
					if err := get(ctx, m); !errors.Is(err, kind) {
						return fmt.Errorf("instead of %w: %w", kind, err)
					}
					return nil
				})
				t.Logf("%s: %d requests, %v", object, o.count(object), took)
				if n := o.count(object); n > len(fleet) || took > soon {
					t.Errorf("%s: %d requests of %d members, in %v", object, n, len(fleet), took)
				}
			}
		})
	}
}

// unheard is a tracker that nobody reaches.
type unheard struct{}

func (unheard) AnnounceSmall(context.Context, string, tracker.Small) (tracker.Answer, error) {
	return tracker.Answer{}, tracker.ErrSilent
}

// TestNoTracker has a fleet in which nobody is heard: all go on as without a swarm.
func TestNoTracker(t *testing.T) {
	o := newOrigin(t)
	fleet := newFleet(t, 2, o, func(c *mirror.Config) { c.Tracker = unheard{} })
	took := together(t, fleet, func(ctx context.Context, m *resident) error { return m.pull(ctx, o, "v1") })
	if took > soon {
		t.Errorf("took %v", took)
	}
}

// TestMembersThatKeepNothing have their caches off: manifests are shared from memory, and blobs are fetched by each
// without anybody waiting for long.
func TestMembersThatKeepNothing(t *testing.T) {
	o := newOrigin(t)
	o.keep = 0
	fleet := newFleet(t, 3, o, nil)
	took := together(t, fleet, func(ctx context.Context, m *resident) error { return m.pull(ctx, o, "v1") })
	t.Logf("took %v", took)
	if took > soon {
		t.Errorf("took %v", took)
	}
	o.askedFew(t, "tag", "v1")
	if n := o.count(digest.FromBytes(o.manifest).String()); n > 0 {
		t.Errorf("upstream was asked %d times for the manifest, which came with the tag", n)
	}
}

// TestRefreshedWhileAsked has a tag forgotten everywhere while upstream is being asked what it means: what comes of
// that is an answer for those who asked before, and for nobody who asks after.
func TestRefreshedWhileAsked(t *testing.T) {
	for _, next := range []int{0, 1} {
		t.Run(fmt.Sprintf("then member %d asks", next), func(t *testing.T) {
			o := newOrigin(t)
			fleet := newFleet(t, 2, o, nil)
			name := reference.Reference{Repository: ref.Repository, Tag: "v1"}
			var once sync.Once
			o.intercept(func(http.ResponseWriter, *http.Request) bool {
				once.Do(func() {
					time.Sleep(200 * time.Millisecond) // Ages on their way to a tracker lose the time that takes.
					for _, m := range fleet {
						if err := m.Refresh(context.Background(), name); err != nil {
							t.Error(err)
						}
					}
				})
				return false
			})
			together(t, fleet[:1], func(ctx context.Context, m *resident) error { return want(o.manifest)(m.tag(ctx, "v1")) })
			together(t, fleet[next:next+1], func(ctx context.Context, m *resident) error { return want(o.manifest)(m.tag(ctx, "v1")) })
			if n := o.count("v1"); n != 2 {
				t.Errorf("upstream was asked %d times, but what it said before the tag was forgotten counts no more", n)
			}
		})
	}
}

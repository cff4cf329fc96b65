package object_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/object"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	blob = digest.FromString("blob")
	zone = discovery.Member{Zone: "a"}
)

// script is a tracker that says what it is told to, the last again and again, and writes down what it heard.
type script struct {
	say []func() (tracker.Answer, error)

	mu    sync.Mutex
	heard []string
}

func (s *script) AnnounceSmall(_ context.Context, key string, a tracker.Small) (tracker.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := fmt.Sprintf("%s size %d", strings.Replace(key, blob.String(), "blob", 1), a.Size)
	for _, word := range []struct {
		word string
		said bool
	}{
		{"complete", a.Complete}, {"leaving", a.Leaving}, {"stalled", a.Stalled}, {"refused", a.Upstream == swarm.Refused},
		{"failing", a.Upstream == swarm.Failing}, {"progress", a.Fetched > 0}, {"value", a.Value != nil},
	} {
		if word.said {
			said += " " + word.word
		}
	}
	s.heard = append(s.heard, said)
	next := s.say[0]
	if len(s.say) > 1 {
		s.say = s.say[1:]
	}
	return next()
}

// all gives what was heard.
func (s *script) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

func says(a tracker.Answer) func() (tracker.Answer, error) {
	return func() (tracker.Answer, error) { return a, nil }
}

// answer gives an answer with an assignment, in which members "a" and "b" are known.
func answer(change func(a *tracker.Answer)) tracker.Answer {
	a := tracker.Answer{Members: map[swarm.ID]discovery.Member{"a": zone, "b": {Zone: "b"}}}
	change(&a)
	return a
}

var (
	nothing = answer(func(*tracker.Answer) {})
	leased  = answer(func(a *tracker.Answer) { a.Leases = []swarm.Lease{{End: -1}} })
	held    = answer(func(a *tracker.Answer) { a.Holders = []swarm.ID{"b", "a", "b", "unknown"} })
)

func TestTurns(t *testing.T) {
	for _, tt := range []struct {
		name    string
		says    tracker.Answer
		want    object.Turn
		holders int
	}{
		{"a lease upstream", leased, object.Lead, 0},
		{"a lease at a member", answer(func(a *tracker.Answer) { a.Leases = []swarm.Lease{{From: "a", End: -1}} }), object.Ask, 1},
		{"a lease at somebody unknown", answer(func(a *tracker.Answer) { a.Leases, a.NoSource = []swarm.Lease{{From: "c", End: -1}}, true }), object.Alone, 0},
		{"holders, each once", held, object.Ask, 2},
		{"a value", answer(func(a *tracker.Answer) { a.Value = &tracker.TagValue{} }), object.Believe, 0},
		{"no source", answer(func(a *tracker.Answer) { a.NoSource = true }), object.Alone, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := object.New(object.Config{Tracker: &script{say: []func() (tracker.Answer, error){says(tt.says)}}, Log: logr.Discard()})
			defer o.Close()
			turn, got := o.Content(blob, "", 10).Next(t.Context())
			if turn != tt.want || len(got.Holders) != tt.holders {
				t.Errorf("turn %d with %v, want %d with %d holders", turn, got.Holders, tt.want, tt.holders)
			}
		})
	}
	if turn, _ := object.New(object.Config{}).Content(blob, "", 10).Next(t.Context()); turn != object.Alone {
		t.Errorf("without trackers: turn %d", turn)
	}
}

// TestWaits: a member waits for others for some seconds, asks anew as often as the tracker has room for it, and goes on
// alone then, or when nobody answers.
func TestWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func() (tracker.Answer, error)
		took time.Duration
		most int
	}{
		{"long polls", func() (tracker.Answer, error) {
			time.Sleep(1100 * time.Millisecond)
			return nothing, nil
		}, 5500 * time.Millisecond, 5},
		{"no room to wait there", says(answer(func(a *tracker.Answer) { a.Again = 200 * time.Millisecond })), 5 * time.Second, 27},
		{"nobody answers", func() (tracker.Answer, error) { return tracker.Answer{}, tracker.ErrSilent }, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{say: []func() (tracker.Answer, error){tt.say}}
				o := object.New(object.Config{Tracker: deadlined{s}, Log: logr.Discard()})
				defer o.Close()
				start := time.Now()
				if turn, _ := o.Content(blob, "", 10).Next(t.Context()); turn != object.Alone {
					t.Errorf("turn %d", turn)
				}
				if took := time.Since(start); took != tt.took || len(s.all()) > tt.most {
					t.Errorf("it took %v and %d announces", took, len(s.all()))
				}
			})
		})
	}
}

// deadlined answers nothing that is asked too late.
type deadlined struct{ *script }

func (d deadlined) AnnounceSmall(ctx context.Context, key string, a tracker.Small) (tracker.Answer, error) {
	if ctx.Err() != nil {
		return tracker.Answer{}, ctx.Err()
	}
	return d.script.AnnounceSmall(ctx, key, a)
}

// TestHoldersFail: holders that give nothing are told of, and after some of them this member goes on alone.
func TestHoldersFail(t *testing.T) {
	s := &script{say: []func() (tracker.Answer, error){says(held)}}
	o := object.New(object.Config{Tracker: s, Log: logr.Discard()})
	defer o.Close()
	want := o.Content(blob, "", 10)
	for asked := 0; ; asked++ {
		turn, _ := want.Next(t.Context())
		if turn == object.Alone {
			if asked != 4 {
				t.Errorf("asked holders %d times", asked)
			}
			break
		}
		want.Missed()
	}
	if s.heard[0] != "blob size 10" || s.heard[1] != "blob size 10 stalled" {
		t.Errorf("heard %q", s.heard)
	}
}

// TestLease: whoever goes upstream says so three times a second until it says how that went.
func TestLease(t *testing.T) {
	value := tracker.TagValue{Target: ocispec.Descriptor{Digest: blob, Size: 7}}
	for _, tt := range []struct {
		name string
		tag  bool
		held bool
		end  func(l *object.Lease)
		want []string
	}{
		{"got and held", false, true, func(l *object.Lease) { l.Got(blob, 7) }, []string{"blob size 7 complete"}},
		{"got and not held", false, false, func(l *object.Lease) { l.Got(blob, 7) }, []string{"blob size 7 leaving"}},
		{"refused", false, true, func(l *object.Lease) { l.Failed(upstream.ErrNotFound) }, []string{"blob size 10 refused"}},
		{"failed", false, true, func(l *object.Lease) { l.Failed(errors.New("reset")) }, []string{"blob size 10 failing"}},
		{"given up", false, true, func(l *object.Lease) { l.Failed(context.Canceled) }, []string{"blob size 10 leaving"}},
		{"a tag and its manifest", true, true, func(l *object.Lease) { l.Means(value, true) }, []string{"blob size 7 complete", "quay.io/a:b size 1 complete value"}},
		{"a tag", true, true, func(l *object.Lease) { l.Means(value, false) }, []string{"quay.io/a:b size 1 complete value"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{say: []func() (tracker.Answer, error){says(leased)}}
				o := object.New(object.Config{Tracker: s, Log: logr.Discard(), Held: func(context.Context, digest.Digest) bool { return tt.held }})
				want := o.Content(blob, "", 10)
				if tt.tag {
					want = o.Tag("quay.io/a:b", "", time.Minute)
				}
				if turn, _ := want.Next(t.Context()); turn != object.Lead {
					t.Fatalf("turn %d", turn)
				}
				lease := want.Lead()
				time.Sleep(time.Second)
				if heard := s.all(); len(heard) != 4 || !strings.HasSuffix(heard[3], " progress") {
					t.Fatalf("heard within a second: %q", heard)
				}
				tt.end(lease)
				time.Sleep(2 * time.Second)
				if got := s.all()[4:]; !slices.Equal(got, tt.want) {
					t.Errorf("heard at the end: %q, want %q", got, tt.want)
				}
				if agrees := o.Agree(10); agrees != tt.held {
					t.Errorf("it takes part: %t", agrees)
				}
				o.Close()
			})
		})
	}
}

// TestAgree: only what is one piece.
func TestAgree(t *testing.T) {
	o := object.New(object.Config{Tracker: &script{}})
	for size, want := range map[int64]bool{-1: false, 0: true, swarm.OnePiece - 1: true, swarm.OnePiece: false} {
		if o.Agree(size) != want {
			t.Errorf("%d bytes: %t", size, !want)
		}
	}
	if object.New(object.Config{}).Agree(1) {
		t.Error("without trackers")
	}
}

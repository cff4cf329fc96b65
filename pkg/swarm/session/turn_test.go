package session

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
)

// bureau coordinates two layers of an image. It has leases of the first left until it has been asked a few times after
// the second was said to wait.
type bureau struct {
	first, second digest.Digest
	crowd         int // Neighbours of each.

	mu     sync.Mutex
	waited int // Announces of the second layer that say that it waits.
	left   int // Answers that still say that the first one is open.
	early  bool
}

func (b *bureau) Member(swarm.ID) (discovery.Member, bool) { return discovery.Member{}, false }

func (b *bureau) Announce(_ context.Context, key string, a swarm.Announce) (tracker.Answer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	answer := tracker.Answer{Assignment: swarm.Assignment{Size: a.Size, Again: 20 * time.Millisecond}}
	for i := range b.crowd {
		answer.Neighbours = append(answer.Neighbours, swarm.Neighbour{Member: swarm.ID(strings.Repeat("m", i+1))})
	}
	open := b.left > 0
	switch {
	case a.Complete || a.Leaving:
	case strings.HasPrefix(key, b.first.String()):
		if b.waited > 0 {
			b.left--
		}
		// It goes on a little with each answer, so that it does not look stuck; but is not through before the second has
		// said that it waits, however late that is on a busy machine.
		end := a.Size
		if answer.Open = open; open {
			end = (a.Fetched>>18 + 1) << 18
			if a.Size >= 0 {
				end = min(end, a.Size)
			}
		}
		answer.Leases = []swarm.Lease{{End: end}}
	case a.Waiting:
		b.waited++
	default:
		b.early = b.early || open && b.waited > 0
		if !open {
			answer.Leases = []swarm.Lease{{End: a.Size}}
		}
	}
	return answer, nil
}

// TestTurns has two layers of an image pulled at once. In a crowd the second waits until the first has no leases left;
// among few both come at once, once that is known.
func TestTurns(t *testing.T) {
	for _, test := range []struct {
		name   string
		crowd  int
		waits  bool
		knocks int // It may say so often that it waits, before the first layer has had an answer.
		before func(first, second digest.Digest) []digest.Digest
	}{
		{"a crowd", crowd, true, 0, func(first, _ digest.Digest) []digest.Digest { return []digest.Digest{first} }},
		{"a few", crowd - 1, false, 15, func(first, _ digest.Digest) []digest.Digest { return []digest.Digest{first} }},
		{"of different images", crowd, false, 0, func(_, _ digest.Digest) []digest.Digest { return nil }},
		{"itself", crowd, false, 0, func(_, second digest.Digest) []digest.Digest { return []digest.Digest{second} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			bodies := [][]byte{make([]byte, 9<<20), append(make([]byte, 9<<20), 1)}
			b := &bureau{first: digest.FromBytes(bodies[0]), second: digest.FromBytes(bodies[1]), crowd: test.crowd, left: 6}
			if !test.waits {
				time.AfterFunc(500*time.Millisecond, func() {
					b.mu.Lock()
					defer b.mu.Unlock()
					b.left = 0
				})
			}
			x := newSessions(t, func(c *Config) {
				c.Announcer = b
				c.Earlier = func(ref reference.Reference) []digest.Digest {
					if ref.Digest == b.second {
						return test.before(b.first, b.second)
					}
					return nil
				}
			})
			g := group(t, x)
			var pulls sync.WaitGroup
			for _, body := range bodies {
				pulls.Go(func() {
					if err := pull(t, g, digest.FromBytes(body), &source{body: body}); err != nil {
						t.Error(err)
					}
				})
			}
			pulls.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			switch {
			case test.waits && (b.waited == 0 || b.early):
				t.Errorf("it waited %d times; went on too early: %v", b.waited, b.early)
			case !test.waits && b.waited > test.knocks:
				t.Errorf("it waited %d times", b.waited)
			}
		})
	}
}

// TestTurnEnds: nobody waits for ever, nor for what gets nothing.
func TestTurnEnds(t *testing.T) {
	now := time.Now()
	x := newSessions(t, func(*Config) {})
	first, second := &session{x: x}, &session{x: x}
	first.turn.began = now
	x.sessions["first"] = first
	second.turn = turn{began: now, before: []string{"first"}}
	second.announce.due = now.Add(time.Hour)
	for _, after := range []time.Duration{0, knocks - 1, knocks} {
		if second.wait(now.Add(after)); second.turn.waiting != (after < knocks) {
			t.Errorf("no answer for %v: waiting is %v", after, second.turn.waiting)
		}
	}
	first.opened(now, &tracker.Answer{Assignment: swarm.Assignment{Open: true}})
	if second.wait(now); second.turn.waiting {
		t.Error("it waits where there is no crowd")
	}
	answer := &tracker.Answer{Assignment: swarm.Assignment{Open: true, Neighbours: make([]swarm.Neighbour, crowd)}}
	for _, step := range []struct {
		name    string
		idle    time.Duration // Of the first.
		after   time.Duration
		waiting bool
	}{
		{"it has just begun", 0, 0, true},
		{"the first gets nothing", keepsTurn, 0, false},
		{"the first gets something again", 0, time.Second, true},
		{"after a long time", 0, waitsFor, false},
	} {
		at := now.Add(step.after)
		first.progress.arrived.at = at.Add(-step.idle)
		first.opened(at, answer)
		if second.wait(at); second.turn.waiting != step.waiting {
			t.Errorf("%s: waiting is %v", step.name, second.turn.waiting)
		}
	}
}

package tracker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
)

// directory is a member's view of others, as a test wants it.
type directory struct {
	self    discovery.Member
	nearest []discovery.Member
	closer  []discovery.Member
	holders []discovery.Member
	// elsewhere are the holders that others know of, and takes is how long it takes to ask them.
	elsewhere []discovery.Member
	takes     time.Duration

	mu       sync.Mutex
	dead     []peer.ID
	reported []peer.ID
	searches int
}

func (d *directory) Self() discovery.Member { return d.self }

func (d *directory) Nearest(discovery.Key, int) []discovery.Member { return d.nearest }

func (d *directory) Closer(_ discovery.Key, n int, exclude []peer.ID) []discovery.Member {
	closer := slices.DeleteFunc(slices.Clone(d.closer), func(m discovery.Member) bool { return slices.Contains(exclude, m.ID) })
	return closer[:min(n, len(closer))]
}

func (d *directory) Holders(ctx context.Context, _ discovery.Key, search bool) ([]discovery.Member, error) {
	if len(d.holders) > 0 || !search {
		return d.holders, nil
	}
	d.mu.Lock()
	d.searches++
	d.mu.Unlock()
	select {
	case <-time.After(d.takes):
		return d.elsewhere, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *directory) Dead(ids []peer.ID) []peer.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ids), func(id peer.ID) bool { return !slices.Contains(d.dead, id) })
}

func (d *directory) ReportDead(id peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reported = append(d.reported, id)
}

// running is a service in a bubble of its own time.
type running struct {
	*Service
	t   *testing.T
	dir *directory
}

func run(t *testing.T, test func(s *running)) {
	synctest.Test(t, func(t *testing.T) {
		dir := &directory{self: member("self")}
		s, err := NewService(ServiceConfig{Directory: dir, Waiting: 3, Now: time.Now, Log: logr.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		test(&running{s, t, dir})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := (&running{s, t, dir}).count(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// count gives how many wait.
func (s *running) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// say has a member announce, and gives what it is told.
func (s *running) say(name, key string, change func(*question)) *Answer {
	s.t.Helper()
	q := &question{key: key, from: member(name), renew: time.Second, announce: swarm.Announce{Size: 10}}
	q.announce.Member = ID(q.from.ID)
	if change != nil {
		change(q)
	}
	a, err := s.answer(s.t.Context(), q, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func waits(q *question) { q.wait = maxWait }

// TestHoldersOfOthers has a tracker that joined just now: who holds something, it finds out from others.
func TestHoldersOfOthers(t *testing.T) {
	run(t, func(s *running) {
		s.dir.elsewhere, s.dir.takes = []discovery.Member{member("h")}, 50*time.Millisecond
		large := func(q *question) { q.announce.Size = 100 << 20 }
		told := make(chan *Answer)
		for _, name := range []string{"a", "b"} { // The second announces while others are asked.
			go func() { told <- s.say(name, dgst, large) }()
			time.Sleep(10 * time.Millisecond)
		}
		for range 2 {
			if a := <-told; len(a.Leases) == 0 || a.Leases[0].From != ID(member("h").ID) {
				t.Errorf("one of those that came first is told %+v", a)
			}
		}
		for _, name := range []string{"a", "b", "c"} { // They come again, and another.
			a := s.say(name, dgst, large)
			if len(a.Leases) == 0 || a.Leases[0].From != ID(member("h").ID) {
				t.Errorf("%s is told %+v later", name, a)
			}
			if _, ok := a.Members[ID(member("h").ID)]; !ok {
				t.Errorf("%s is not told where the holder is", name)
			}
		}
		if s.dir.searches != 1 {
			t.Errorf("others were asked for holders %d times", s.dir.searches)
		}
		time.Sleep(searchEvery)
		s.dir.elsewhere = nil
		go func() { told <- s.say("a", dgst, large) }()
		time.Sleep(10 * time.Millisecond)
		began := time.Now()
		if a := s.say("d", dgst, large); len(a.Holders) != 1 || time.Since(began) != 0 {
			t.Errorf("while others are asked again, one is told %+v after %v", a, time.Since(began))
		}
		<-told
		if a := s.say("d", dgst, large); len(a.Holders) != 0 {
			t.Errorf("there is no holder any more, but %+v", a)
		}
	})
}

// TestSearchGivenUp has the one member go for which others are being asked who holds something.
func TestSearchGivenUp(t *testing.T) {
	run(t, func(s *running) {
		s.dir.elsewhere, s.dir.takes = []discovery.Member{member("h")}, 50*time.Millisecond
		ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Millisecond)
		defer cancel()
		ended := make(chan error)
		go func() {
			q := &question{key: dgst, from: member("a"), announce: swarm.Announce{Member: ID(member("a").ID), Size: 10}}
			_, err := s.answer(ctx, q, nil)
			ended <- err
		}()
		time.Sleep(10 * time.Millisecond)
		a := s.say("b", dgst, nil)
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first ends with %v", err)
		}
		if len(a.Holders) != 1 {
			t.Errorf("the second is told %+v", a)
		}
	})
}

func TestOneGoesUpstream(t *testing.T) {
	run(t, func(s *running) {
		if a := s.say("a", dgst, waits); len(a.Leases) != 1 || a.Wait {
			t.Fatalf("the first is told %+v", a)
		}
		if a := s.say("b", dgst, nil); !a.Wait || len(a.Leases) != 0 {
			t.Fatalf("the second is told %+v", a)
		}
		began := time.Now()
		told := make(chan *Answer)
		for _, name := range []string{"b", "c"} {
			go func() { told <- s.say(name, dgst, waits) }()
		}
		time.Sleep(300 * time.Millisecond)
		s.say("a", dgst, func(q *question) { q.announce.Complete = true })
		for range 2 {
			a := <-told
			if m, ok := a.Members[ID(member("a").ID)]; len(a.Holders) != 1 || !ok || m.PeerAPI[0] != "10.0.0.1:28501" {
				t.Errorf("who waited is told %+v", a)
			}
		}
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("woken after %v", took)
		}
		if s.dir.searches != 1 {
			t.Errorf("others were asked for holders %d times", s.dir.searches)
		}
	})
}

func TestLeaderThatDies(t *testing.T) {
	for name, test := range map[string]struct {
		dies func(s *running)
		most time.Duration
	}{
		"reported":    {func(s *running) { s.dir.mu.Lock(); s.dir.dead = []peer.ID{member("a").ID}; s.dir.mu.Unlock() }, tick},
		"silent":      {func(*running) {}, time.Second + 2*tick},
		"says so":     {func(s *running) { s.say("a", dgst, func(q *question) { q.announce.Leaving = true }) }, 0},
		"can't go on": {func(s *running) { s.say("a", dgst, func(q *question) { q.announce.Upstream = swarm.Failing }) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(s *running) {
				s.say("a", dgst, nil)
				told := make(chan *Answer)
				go func() {
					a := s.say("b", dgst, waits)
					for a.Wait {
						a = s.say("b", dgst, waits)
					}
					told <- a
				}()
				synctest.Wait()
				began := time.Now()
				test.dies(s)
				if a := <-told; len(a.Leases) != 1 {
					t.Errorf("who waited is told %+v", a)
				}
				if took := time.Since(began); took > test.most {
					t.Errorf("after %v", took)
				}
			})
		})
	}
}

func TestLeaderThatLivesIsWaitedFor(t *testing.T) {
	run(t, func(s *running) {
		s.say("a", dgst, nil)
		for i := range 40 { // 12 seconds.
			time.Sleep(300 * time.Millisecond)
			if a := s.say("a", dgst, func(q *question) { q.announce.Fetched = int64(i + 1) }); len(a.Leases) != 1 {
				t.Fatalf("lost its lease: %+v", a)
			}
			if a := s.say("b", dgst, nil); !a.Wait {
				t.Fatalf("the other is told %+v", a)
			}
		}
	})
}

func TestFinalNo(t *testing.T) {
	for _, key := range []string{dgst, "r.io/a:b"} {
		run(t, func(s *running) {
			s.say("a", key, nil)
			told := make(chan *Answer)
			for _, name := range []string{"b", "c"} {
				go func() { told <- s.say(name, key, waits) }()
			}
			synctest.Wait()
			s.say("a", key, func(q *question) { q.announce.Upstream, q.renew = swarm.Refused, 0 })
			for range 2 {
				if a := <-told; !a.NoSource || len(a.Leases) != 0 {
					t.Errorf("who waited is told %+v", a)
				}
			}
			if a := s.say("d", key, waits); !a.NoSource {
				t.Errorf("who comes a little later is told %+v", a)
			}
			time.Sleep(refusedFor)
			if a := s.say("e", key, waits); len(a.Leases) != 1 {
				t.Errorf("who comes later is told %+v", a)
			}
		})
	}
}

func TestTagMeans(t *testing.T) {
	const name = "r.io/a:latest"
	asks := func(within time.Duration) func(*question) {
		return func(q *question) { q.within, q.wait = within, maxWait }
	}
	run(t, func(s *running) {
		if a := s.say("a", name, asks(time.Second)); len(a.Leases) != 1 {
			t.Fatalf("the first is told %+v", a)
		}
		told := make(chan *Answer)
		go func() { told <- s.say("b", name, asks(0)) }()
		time.Sleep(200 * time.Millisecond)
		s.say("a", name, func(q *question) {
			q.announce.Complete = true
			q.value = &TagValue{Target: value.Target, Confirmed: time.Now()}
		})
		if a := <-told; a.Value == nil || a.Value.Target.Digest != value.Target.Digest {
			t.Errorf("who waited is told %+v", a)
		}
		time.Sleep(time.Second)
		if a := s.say("c", name, asks(time.Minute)); a.Value == nil {
			t.Errorf("who believes what is a second old is told %+v", a)
		}
		if a := s.say("d", name, asks(time.Millisecond)); a.Value != nil || len(a.Leases) != 1 {
			t.Errorf("who does not is told %+v", a)
		}
		if a := s.say("e", name, func(q *question) { q.within = time.Millisecond }); !a.Wait {
			t.Errorf("another one is told %+v", a)
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	run(t, func(s *running) {
		s.say("lead", dgst, func(q *question) { q.renew = time.Hour })
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				began := time.Now()
				a := s.say(fmt.Sprint(i), dgst, waits)
				if took := time.Since(began); !a.Wait || took != 0 && took != maxWait {
					t.Errorf("%+v after %v", a, took)
				}
			})
			synctest.Wait()
			if n, want := s.count(), min(i+1, 3); n != want {
				t.Errorf("%d wait, not %d", n, want)
			}
		}
		all.Wait()
		ctx, cancel := context.WithTimeout(s.t.Context(), 100*time.Millisecond)
		defer cancel()
		q := &question{key: dgst, from: member("x"), wait: maxWait, announce: swarm.Announce{Member: ID(member("x").ID), Size: 10}}
		if _, err := s.answer(ctx, q, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who went away: %v", err)
		}
	})
}

func TestCloserMembersAreNamed(t *testing.T) {
	run(t, func(s *running) {
		s.dir.closer = []discovery.Member{member("x"), member("y")}
		for _, test := range []struct {
			from  string
			avoid []peer.ID
			final bool
			want  []discovery.Member
		}{
			{from: "me", want: s.dir.closer},
			{from: "me", avoid: []peer.ID{member("x").ID}, want: s.dir.closer[1:]},
			{from: "x", want: s.dir.closer[1:]},
			{from: "me", avoid: []peer.ID{member("x").ID, member("y").ID}},
			{from: "me", final: true},
		} {
			q := &question{key: dgst, from: member(test.from), avoid: test.avoid, final: test.final}
			q.announce.Member = ID(q.from.ID)
			_, err := s.answer(s.t.Context(), q, nil)
			var away *referral
			if errors.As(err, &away) != (test.want != nil) || away != nil && len(away.closer) != len(test.want) {
				t.Errorf("%+v: %v", test, err)
			}
		}
	})
}

package tracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// plain calls members without TLS.
type plain struct{ http *http.Client }

func (p plain) Call(ctx context.Context, method string, addrs []string, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addrs[0]+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := p.http.Do(req)
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrDead, err)
	}
	return resp, err
}

// host is another member that coordinates, or does something else.
type host struct {
	discovery.Member
	dir     *directory
	service *Service
	asked   atomic.Int64
}

func newService(t *testing.T, dir *directory) *Service {
	t.Helper()
	s, err := NewService(ServiceConfig{Directory: dir, Now: time.Now, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newHost starts a member. instead, if it is not nil, answers in its place.
func newHost(t *testing.T, name string, instead http.HandlerFunc) *host {
	t.Helper()
	h := &host{Member: member(name), dir: &directory{}}
	h.service = newService(t, h.dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		if instead != nil {
			instead(w, r)
			return
		}
		h.service.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	h.PeerAPI = []string{server.Listener.Addr().String()}
	h.dir.self = h.Member
	return h
}

// gone is a member that refuses connections.
func gone(name string) *host {
	h := &host{Member: member(name), dir: &directory{}}
	h.PeerAPI = []string{"127.0.0.1:1"}
	return h
}

// silent takes requests and never answers.
func silent(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // Only then the server looks whether the client is still there.
	<-r.Context().Done()
}

func newClient(t *testing.T, dir *directory) *Client {
	t.Helper()
	dir.self = member("self")
	transport := &http.Transport{}
	c, err := NewClient(ClientConfig{
		Locator: dir, Caller: plain{&http.Client{Transport: transport}}, Service: newService(t, dir), Now: time.Now, Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		transport.CloseIdleConnections()
	})
	return c
}

func asks(t *testing.T, c *Client) (Answer, time.Duration, error) {
	t.Helper()
	began := time.Now()
	a, err := c.Announce(t.Context(), dgst, swarm.Announce{Size: 10})
	return a, time.Since(began), err
}

func TestFirstThatAnswers(t *testing.T) {
	ok := func(t *testing.T) *host { return newHost(t, "ok", nil) }
	quiet := func(t *testing.T) *host { return newHost(t, "mute", silent) }
	away := func(*testing.T) *host { return gone("gone") }
	broken := func(t *testing.T) *host {
		return newHost(t, "sick", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	}
	garbage := func(t *testing.T) *host {
		return newHost(t, "mad", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	}
	cut := func(t *testing.T) *host {
		return newHost(t, "cut", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
	}
	for _, test := range []struct {
		name     string
		hosts    []func(*testing.T) *host
		self     bool // This member is the last one.
		fails    bool
		min, max time.Duration
		dead     bool // The first one is reported.
	}{
		{name: "the closest", hosts: []func(*testing.T) *host{ok, quiet}, max: hedgeFirst},
		{name: "this one", self: true, max: hedgeFirst},
		{name: "the first refuses", hosts: []func(*testing.T) *host{away, ok}, max: hedgeFirst, dead: true},
		{name: "two refuse", hosts: []func(*testing.T) *host{away, away}, self: true, max: hedgeFirst, dead: true},
		{name: "the first is silent", hosts: []func(*testing.T) *host{quiet, ok}, min: hedgeFirst, max: hedgeFirst + time.Second},
		{name: "the first is broken", hosts: []func(*testing.T) *host{broken, ok}, max: hedgeFirst},
		{name: "the first makes no sense", hosts: []func(*testing.T) *host{garbage, ok}, max: hedgeFirst},
		{name: "the first breaks off", hosts: []func(*testing.T) *host{cut, ok}, max: hedgeFirst},
		{name: "all are silent", hosts: []func(*testing.T) *host{quiet, quiet, quiet}, fails: true, max: 2*hedgeFirst + arriveWithin + time.Second},
		{name: "all refuse", hosts: []func(*testing.T) *host{away, away, away}, fails: true, max: hedgeFirst, dead: true},
		{name: "nobody", fails: true, max: hedgeFirst},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := &directory{}
			for i, make := range test.hosts {
				h := make(t)
				h.ID = member(fmt.Sprint(i)).ID
				dir.nearest = append(dir.nearest, h.Member)
			}
			if test.self {
				dir.nearest = append(dir.nearest, member("self"))
			}
			a, took, err := asks(t, newClient(t, dir))
			if errors.Is(err, ErrSilent) != test.fails || err == nil && len(a.Leases) != 1 {
				t.Errorf("%+v, %v", a, err)
			}
			if took < test.min || took > test.max {
				t.Errorf("took %v", took)
			}
			dir.mu.Lock()
			defer dir.mu.Unlock()
			if (len(dir.reported) > 0 && dir.reported[0] == dir.nearest[0].ID) != test.dead {
				t.Errorf("reported as dead: %q", dir.reported)
			}
		})
	}
}

func TestSilentMemberIsPassedOver(t *testing.T) {
	dir := &directory{}
	mute, second := newHost(t, "mute", silent), newHost(t, "ok", nil)
	dir.nearest = []discovery.Member{mute.Member, second.Member}
	c := newClient(t, dir)
	c.passOver(mute.ID, silentFor)
	// The second knows the first as closer, and is told not to refer to it.
	second.dir.closer = []discovery.Member{mute.Member}
	if a, took, err := asks(t, c); err != nil || len(a.Leases) != 1 || took > hedgeFirst {
		t.Errorf("%+v, %v, %v", a, took, err)
	}
	if mute.asked.Load() != 0 {
		t.Error("the silent one was asked again")
	}
}

func TestRedirects(t *testing.T) {
	var hosts []*host
	for i := range 4 {
		hosts = append(hosts, newHost(t, fmt.Sprint(i), nil))
	}
	for i, h := range hosts[:3] { // Each knows a closer one.
		h.dir.closer = []discovery.Member{hosts[i+1].Member}
	}
	for start, want := range map[int]int{3: 3, 2: 3, 1: 3, 0: 2} { // Two at most: then whoever it is answers.
		dir := &directory{nearest: []discovery.Member{hosts[start].Member}}
		c := newClient(t, dir)
		a, _, err := asks(t, c)
		if err != nil || len(a.Leases)+len(a.Holders) == 0 && !a.Wait {
			t.Fatalf("from %d: %+v, %v", start, a, err)
		}
		if n := int(testutil.ToFloat64(c.metrics.redirects)); n != want-start {
			t.Errorf("from %d: %d redirects", start, n)
		}
		if _, err := c.Announce(t.Context(), dgst, swarm.Announce{Leaving: true}); err != nil {
			t.Error(err)
		}
	}
}

// TestLateAnswerIsTakenBack has the tracker answer after somebody else stood in for it: its lease is given back.
func TestLateAnswerIsTakenBack(t *testing.T) {
	var first *host
	var leaving atomic.Bool
	first = newHost(t, "late", func(w http.ResponseWriter, r *http.Request) {
		if first.asked.Load() == 1 {
			silent(w, r)
			return
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		leaving.Store(strings.Contains(body.String(), `"leaving":true`))
		fmt.Fprint(w, `{"size":-1}`)
	})
	second := newHost(t, "ok", nil)
	dir := &directory{nearest: []discovery.Member{first.Member, second.Member}}
	c := newClient(t, dir)
	if a, _, err := asks(t, c); err != nil || len(a.Leases) != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	c.late.Wait()
	if !leaving.Load() {
		t.Error("it was not told")
	}
	if n := int(testutil.ToFloat64(c.metrics.hedges)); n != 1 {
		t.Errorf("%d hedges", n)
	}
	// And for a while the second stays the one that is asked.
	before := first.asked.Load()
	if a, _, err := asks(t, c); err != nil || len(a.Leases) != 1 || first.asked.Load() != before {
		t.Errorf("%+v, %v, and the first was asked %d times", a, err, first.asked.Load())
	}
}

// TestLongPollTravels has an announce wait at another member, which does not look silent meanwhile.
func TestLongPollTravels(t *testing.T) {
	coordinates, next := newHost(t, "ok", nil), newHost(t, "next", nil)
	dir := &directory{nearest: []discovery.Member{coordinates.Member, next.Member}}
	c := newClient(t, dir)
	ctx := t.Context()
	tell := func(name string, a swarm.Announce) {
		t.Helper()
		q := &question{key: dgst, from: member(name), announce: a}
		q.announce.Member = ID(q.from.ID)
		if _, err := coordinates.service.answer(ctx, q, nil); err != nil {
			t.Fatal(err)
		}
	}
	tell("lead", swarm.Announce{Size: 10})
	time.AfterFunc(2*hedgeFirst-100*time.Millisecond, func() { tell("lead", swarm.Announce{Size: 10, Complete: true}) })
	a, took, err := asks(t, c)
	if err != nil || !slices.Equal(a.Holders, []swarm.ID{ID(member("lead").ID)}) || took < hedgeFirst || took > 2*hedgeFirst+500*time.Millisecond {
		t.Errorf("%+v, %v, %v", a, took, err)
	}
	if next.asked.Load() != 0 {
		t.Error("the next-closest was asked as well")
	}
	if m, ok := c.Member(a.Holders[0]); !ok || m.PeerAPI[0] != "10.0.0.1:28501" {
		t.Errorf("address of the holder: %+v", m)
	}
}

func TestServiceRefuses(t *testing.T) {
	h := newHost(t, "ok", nil)
	defer http.DefaultClient.CloseIdleConnections()
	for body, want := range map[string]int{"": 400, "{}": 400, `{"key":"` + strings.Repeat("x", maxRequest) + `"}`: 400} {
		resp, err := http.Post("http://"+h.PeerAPI[0]+Path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%.20s: %d", body, resp.StatusCode)
		}
	}
	resp, err := http.Get("http://" + h.PeerAPI[0] + Path)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", resp.StatusCode)
	}
}

// TestLateMemberIsAskedAgainSoon has a member that was slower than the next one asked again after a moment, and one
// that keeps being late after a longer one.
func TestLateMemberIsAskedAgainSoon(t *testing.T) {
	now := time.Unix(1000, 0)
	c, err := NewClient(ClientConfig{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := member("late").ID
	for round, want := range []time.Duration{lateFor, silentFor} {
		c.passOver(id, lateFor)
		if now = now.Add(want - time.Millisecond); !c.isSilent(id) {
			t.Errorf("round %d: asked again before %v", round, want)
		}
		if now = now.Add(time.Millisecond); c.isSilent(id) {
			t.Errorf("round %d: not asked again after %v", round, want)
		}
	}
}

package access

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

var (
	private = reference.Repository{Registry: "registry.example.com", Path: "tenant-a/app"}
	other   = reference.Repository{Registry: "registry.example.com", Path: "tenant-b/app"}
	public  = reference.Repository{Registry: "docker.io", Path: "library/alpine"}
	nobody  = Credentials{}
	alice   = NewCredentials("Bearer alice")
	bob     = NewCredentials("Basic Ym9iOnNlY3JldA==")
	realm   = []string{`Bearer realm="https://auth.example.com/token",service="registry"`}
)

// clock is a time that tests move.
type clock struct{ time.Time }

func (c *clock) later(d time.Duration) { c.Time = c.Add(d) }

func newBook(t *testing.T, change func(*Config)) (*Book, *clock) {
	t.Helper()
	c := &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	cfg := Config{
		AcceptedFor: 5 * time.Minute, RefusedFor: 30 * time.Second, OpenFor: time.Hour,
		Now: func() time.Time { return c.Time },
	}
	if change != nil {
		change(&cfg)
	}
	return New(cfg), c
}

// accept has a registry give a manifest to a client, or to nobody in particular.
func accept(b *Book, repo reference.Repository, c Credentials) {
	b.Learn(Answer{Repository: repo, Credentials: c, Asked: Content, Manifest: "v1", Speaker: Registry, Status: 200, Named: true})
}

// refuse has a registry refuse a client, or nobody in particular.
func refuse(b *Book, repo reference.Repository, c Credentials, challenge []string) {
	b.Learn(Answer{Repository: repo, Credentials: c, Asked: Content, Speaker: Registry, Status: 401, Challenge: challenge})
}

// missed has a registry be down.
func missed(b *Book, registry string) {
	b.Learn(Answer{Repository: reference.Repository{Registry: registry, Path: "any"}, Down: true})
}

// reached has a registry answer without saying anything of who may read.
func reached(b *Book, registry string) {
	b.Learn(Answer{Repository: reference.Repository{Registry: registry, Path: "any"}, Speaker: Registry, Status: 404})
}

func mode(m Mode) func(*Config) {
	return func(c *Config) { c.Mode = func(reference.Repository) Mode { return m } }
}

func expect(t *testing.T, b *Book, repo reference.Repository, c Credentials, want Judgement) {
	t.Helper()
	got := b.Judge(repo, c)
	if got.Verdict != want.Verdict || got.AsClient != want.AsClient || !slices.Equal(got.Challenge, want.Challenge) {
		t.Errorf("%s for %v: got %+v, want %+v", repo, c, got, want)
	}
}

func TestOpenRepository(t *testing.T) {
	b, clock := newBook(t, nil)
	expect(t, b, public, nobody, Judgement{})
	expect(t, b, public, alice, Judgement{})
	accept(b, public, nobody)
	clock.later(time.Hour - 1)
	for _, c := range []Credentials{nobody, alice} {
		expect(t, b, public, c, Judgement{Verdict: Open})
	}
	expect(t, b, private, nobody, Judgement{})
	clock.later(1)
	expect(t, b, public, nobody, Judgement{})
}

func TestPrivateRepository(t *testing.T) {
	b, clock := newBook(t, nil)
	refuse(b, private, nobody, realm)
	expect(t, b, private, nobody, Judgement{Verdict: Refused, Challenge: realm})
	expect(t, b, private, alice, Judgement{AsClient: true})
	accept(b, private, alice)
	refuse(b, private, bob, nil)
	expect(t, b, private, alice, Judgement{Verdict: Accepted})
	expect(t, b, private, bob, Judgement{Verdict: Refused})
	expect(t, b, private, nobody, Judgement{Verdict: Refused, Challenge: realm})
	expect(t, b, other, alice, Judgement{}) // Of one repository nothing follows for another.
	clock.later(30 * time.Second)
	expect(t, b, private, bob, Judgement{AsClient: true})
	expect(t, b, private, alice, Judgement{Verdict: Accepted})
	clock.later(5*time.Minute - 30*time.Second)
	expect(t, b, private, alice, Judgement{AsClient: true})
	accept(b, private, alice)
	refuse(b, private, alice, realm) // It expired, or was taken back.
	expect(t, b, private, alice, Judgement{Verdict: Refused, Challenge: realm})
	clock.later(time.Hour)
	expect(t, b, private, nobody, Judgement{}) // It may be open by now.
}

// A refusal that asks for nothing may be a firewall's: it is asked for again.
func TestRefusalWithoutChallenge(t *testing.T) {
	b, _ := newBook(t, nil)
	refuse(b, private, nobody, nil)
	expect(t, b, private, nobody, Judgement{})
	expect(t, b, private, alice, Judgement{AsClient: true})
	if b.Offline(private) {
		t.Error("without upstream it is given to everybody")
	}
}

func TestOwnModeAsksNobody(t *testing.T) {
	b, _ := newBook(t, mode(Own))
	refuse(b, private, nobody, realm)
	expect(t, b, private, nobody, Judgement{Verdict: Open})
	if !b.Offline(private) || !b.Serves(private, "sha256:x", ClaimOpen) {
		t.Error("own credentials are not for everybody")
	}
}

func TestOffline(t *testing.T) {
	for _, test := range []struct {
		name                     string
		mode                     Mode
		offlineFor               time.Duration
		unknown, open, refused   bool
		unknownLater, afterwards bool
	}{
		{name: "auto", mode: Auto, unknown: true, open: true, unknownLater: true},
		{name: "relay", mode: Relay, unknown: true, open: true, unknownLater: true},
		{name: "verify", mode: Verify},
		{name: "auto for an hour", mode: Auto, offlineFor: time.Hour, unknown: true, open: true, refused: true, unknownLater: true},
		{name: "verify for an hour", mode: Verify, offlineFor: time.Hour, unknown: true, open: true, refused: true},
		{name: "own", mode: Own, unknown: true, open: true, refused: true, unknownLater: true, afterwards: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, clock := newBook(t, func(c *Config) {
				mode(test.mode)(c)
				c.OfflineFor = test.offlineFor
			})
			refuse(b, private, nobody, realm)
			accept(b, reference.Repository{Registry: private.Registry, Path: "public"}, nobody)
			missed(b, private.Registry)
			check := func(path string, want bool) {
				t.Helper()
				if got := b.Offline(reference.Repository{Registry: private.Registry, Path: path}); got != want {
					t.Errorf("%s is given: %v", path, got)
				}
			}
			check(private.Path, test.refused)
			check("public", test.open)
			check("unknown", test.unknown)
			clock.later(time.Hour)
			missed(b, private.Registry) // The outage began an hour ago all the same.
			check("unknown", test.unknownLater)
			check(private.Path, test.afterwards)
			reached(b, private.Registry)
			check(private.Path, test.mode == Own)
		})
	}
}

func TestAskable(t *testing.T) {
	b, clock := newBook(t, nil)
	check := func(want bool) {
		t.Helper()
		if got := b.Askable("r"); got != want {
			t.Errorf("askable %v", got)
		}
	}
	check(true)
	reached(b, "r")
	check(true)
	missed(b, "r")
	check(false)
	clock.later(coolDown - 1)
	check(false)
	clock.later(1)
	check(true)
	missed(b, "r")
	check(false)
	accept(b, reference.Repository{Registry: "r", Path: "x"}, alice)
	check(true)
}

func TestDoubts(t *testing.T) {
	for m, allowed := range map[Mode]bool{Auto: true, Relay: true, Verify: true, Own: false} {
		b, clock := newBook(t, mode(m))
		check := func(want bool) {
			t.Helper()
			if got := b.Doubts(private); got != want {
				t.Errorf("mode %d: doubts %t", m, got)
			}
		}
		check(false) // Nothing is allowed for.
		b.cfg.OfflineFor = time.Hour
		refuse(b, private, nobody, realm)
		check(false)
		clock.later(sure)
		check(allowed)
		refuse(b, private, nobody, realm)
		check(false)
		missed(b, private.Registry)
		check(allowed)
	}
}

func TestSeen(t *testing.T) {
	b, _ := newBook(t, nil)
	layer, base := digest.FromString("layer"), digest.FromString("base")
	b.Saw(private, layer, base)
	b.Saw(public, base)
	for _, test := range []struct {
		repo reference.Repository
		dgst digest.Digest
		want bool
	}{
		{private, layer, true}, {private, base, true}, {other, layer, false}, {public, layer, false},
		{other, base, false}, {public, base, true},
	} {
		if got := b.Belongs(test.repo, test.dgst, false); got != test.want {
			t.Errorf("%s in %s: %v", test.dgst, test.repo, got)
		}
	}
	accept(b, public, nobody)
	if !b.Belongs(other, base, false) || b.Belongs(other, layer, false) {
		t.Error("what everybody may read has one name, or what not everybody may read has another")
	}
}

// What another member gets, by what is known here and by what it says of its client.
func TestServes(t *testing.T) {
	layer := digest.FromString("layer")
	for _, test := range []struct {
		name                   string
		mode                   Mode
		know                   func(*Book)
		checked, open, offline bool
	}{
		{"nothing known", Auto, func(*Book) {}, true, false, true},
		{"nothing known, verify", Verify, func(*Book) {}, true, false, false},
		{"open", Auto, func(b *Book) { accept(b, private, nobody) }, true, true, true},
		{"refused", Auto, func(b *Book) { refuse(b, private, nobody, realm) }, true, false, false},
		{"refused, but open elsewhere", Auto, func(b *Book) {
			refuse(b, private, nobody, realm)
			accept(b, public, nobody)
			b.Saw(public, layer)
		}, true, true, true},
		{"accepted for a client", Auto, func(b *Book) { accept(b, private, alice) }, true, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := newBook(t, mode(test.mode))
			b.Saw(private, layer)
			test.know(b)
			for claim, want := range map[Claim]bool{
				ClaimChecked: test.checked, ClaimOpen: test.open, "": test.open, "nonsense": test.open, ClaimOffline: test.offline,
			} {
				if got := b.Serves(private, layer, claim); got != want {
					t.Errorf("claim %q: %v", claim, got)
				}
			}
			b.cfg.OfflineFor = time.Minute // Then who finds upstream down is believed, whatever upstream said before.
			if !b.Serves(private, layer, ClaimOffline) || b.Serves(private, layer, ClaimOpen) != test.open {
				t.Error("with an allowance for outages it is not given, or to others")
			}
		})
	}
}

func TestSnapshot(t *testing.T) {
	b, clock := newBook(t, nil)
	layer := digest.FromString("layer")
	accept(b, public, nobody)
	refuse(b, private, nobody, realm)
	accept(b, private, alice)
	refuse(b, private, bob, realm)
	b.Saw(private, layer)
	b.Saw(other, layer)
	before := b.Changes()
	data, err := b.Snapshot()
	if err != nil || b.Changes() != before {
		t.Fatal(err)
	}
	for _, c := range []Credentials{alice, bob} {
		if strings.Contains(string(data), c.ID().String()) || strings.Contains(string(data), c.Header()) {
			t.Errorf("something of clients is written down: %s", data)
		}
	}
	again, later := newBook(t, nil)
	later.Time = clock.Time
	if err := again.Restore(data); err != nil {
		t.Fatal(err)
	}
	expect(t, again, public, nobody, Judgement{Verdict: Open})
	expect(t, again, private, nobody, Judgement{Verdict: Refused, Challenge: realm})
	expect(t, again, private, alice, Judgement{AsClient: true})
	if !again.Belongs(private, layer, false) || !again.Belongs(other, layer, false) || again.Belongs(public, layer, false) {
		t.Error("what was seen where is forgotten")
	}
	clock.later(time.Second)
	accept(b, public, nobody)
	if b.Changes() != before {
		t.Error("each request makes a snapshot")
	}
}

func FuzzRestore(f *testing.F) {
	b := New(Config{Now: time.Now, OpenFor: time.Hour})
	accept(b, public, nobody)
	b.Saw(private, digest.FromString("x"))
	good, err := b.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"repositories":[{"registry":"r","path":"p","open":true,"at":"9999-01-01T00:00:00Z"}],"seen":[{"digest":"x","in":[-1,7]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := New(Config{Now: time.Now, OpenFor: time.Hour})
		if b.Restore(data) != nil {
			return
		}
		if _, err := b.Snapshot(); err != nil {
			t.Error(err)
		}
		b.repositories.all(func(repo reference.Repository, s standing) {
			if s.verdict == Open && s.at.After(time.Now()) {
				t.Errorf("%s is open from the future on", repo)
			}
		})
	})
}

func TestCredentialsDoNotShow(t *testing.T) {
	type holder struct {
		C *Credentials
		D Credentials
	}
	c := NewCredentials("Bearer s3cret")
	encoded, err := json.Marshal(holder{&c, c})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s %q %x %d", c, c, c, c, c, c, c), fmt.Sprintf("%+v %#v", holder{&c, c}, holder{&c, c}),
		string(encoded), fmt.Errorf("for %w", fmt.Errorf("%v", c)).Error(),
	} {
		if strings.Contains(text, "s3cret") || strings.Contains(text, fmt.Sprintf("%x", "s3cret")) {
			t.Errorf("it shows: %s", text)
		}
	}
	if c.Header() != "Bearer s3cret" || NewCredentials("Bearer s3cret").ID() != c.ID() || alice.ID() == bob.ID() {
		t.Error("credentials are not what they were made of")
	}
	if !NewCredentials("").IsZero() || c.IsZero() || fmt.Sprint(nobody) != "none" {
		t.Error("none and some are not told apart")
	}
}

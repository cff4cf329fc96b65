package access

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// told is one thing that a book was told. The model keeps all of them, and reads them anew for each question.
type told struct {
	at     time.Time
	what   string // accept, refuse, missed or reached.
	repo   reference.Repository
	client Credentials
	realm  []string
}

// history is a model of a book: all that it was told, in order.
type history struct {
	cfg  Config
	mode Mode
	all  []told
}

// last gives the newest entry that fits.
func (h *history) last(fits func(told) bool) (told, bool) {
	for _, e := range slices.Backward(h.all) {
		if fits(e) {
			return e, true
		}
	}
	return told{}, false
}

// standing says what a repository was last heard to be: open or refused, since when, and with which challenge.
func (h *history) standing(repo reference.Repository) (open, known bool, at time.Time, realm []string) {
	for _, e := range h.all {
		if e.repo != repo || !e.client.IsZero() {
			continue
		}
		switch {
		case e.what == "accept":
			open, known, at, realm = true, true, e.at, nil
		case e.what == "refuse":
			open, known, at, realm = false, true, e.at, e.realm
		}
	}
	return open, known, at, realm
}

// judge says in the order of docs/access.md what becomes of a request.
func (h *history) judge(repo reference.Repository, c Credentials, now time.Time) Judgement {
	if h.mode == Own {
		return Judgement{Verdict: Open}
	}
	open, known, at, realm := h.standing(repo)
	known = known && now.Sub(at) < h.cfg.OpenFor
	if known && open {
		return Judgement{Verdict: Open}
	}
	if c.IsZero() {
		if known && len(realm) > 0 {
			return Judgement{Verdict: Refused, Challenge: realm}
		}
		return Judgement{}
	}
	said, ok := h.last(func(e told) bool {
		return e.repo == repo && e.client == c && (e.what == "accept" || e.what == "refuse")
	})
	if ok && said.what == "accept" && now.Sub(said.at) < h.cfg.AcceptedFor {
		return Judgement{Verdict: Accepted}
	}
	if ok && said.what == "refuse" && now.Sub(said.at) < h.cfg.RefusedFor {
		return Judgement{Verdict: Refused, Challenge: said.realm}
	}
	return Judgement{AsClient: known}
}

// offline says whether what is held is given while upstream can't be asked.
func (h *history) offline(repo reference.Repository, now time.Time) bool {
	open, known, _, _ := h.standing(repo)
	if h.mode == Own || (open || !known) && h.mode != Verify {
		return true
	}
	// Since the registry answered last, when was it first missed?
	var since time.Time
	for _, e := range h.all {
		if e.repo.Registry != repo.Registry {
			continue
		}
		switch {
		case e.what == "missed" && since.IsZero():
			since = e.at
		case e.what != "missed":
			since = time.Time{}
		}
	}
	return !since.IsZero() && now.Sub(since) < h.cfg.OfflineFor
}

// TestModel tells books and models of them the same, by chance, and asks both about everybody after each word.
func TestModel(t *testing.T) {
	repos := []reference.Repository{private, other, {Registry: "quay.io", Path: "tenant-a/app"}}
	clients := []Credentials{nobody, alice, bob}
	steps := []time.Duration{0, time.Second, 29 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour}
	seen := map[string]int{}
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 6))
		h := &history{mode: Mode(seed % 4)}
		b, clock := newBook(t, func(c *Config) {
			mode(h.mode)(c)
			c.OfflineFor = []time.Duration{0, 10 * time.Minute}[seed/4%2]
			h.cfg = *c
		})
		for range 60 {
			clock.later(steps[random.IntN(len(steps))])
			e := told{
				at: clock.Time, repo: repos[random.IntN(len(repos))], client: clients[random.IntN(len(clients))],
				what: []string{"accept", "refuse", "refuse", "missed", "reached"}[random.IntN(5)],
			}
			switch e.what {
			case "accept":
				accept(b, e.repo, e.client)
			case "refuse":
				e.realm = [][]string{nil, realm}[random.IntN(2)]
				refuse(b, e.repo, e.client, e.realm)
			case "missed":
				missed(b, e.repo.Registry)
			case "reached":
				reached(b, e.repo.Registry)
			}
			h.all = append(h.all, e)
			h.compare(t, b, seed, repos, clients, clock.Time, seen)
		}
	}
	for _, verdict := range []Verdict{Unknown, Open, Accepted, Refused} {
		for _, offline := range []bool{true, false} {
			if key := fmt.Sprint(verdict, offline); seen[key] < 100 {
				t.Errorf("verdict %d with offline %t was met %d times", verdict, offline, seen[key])
			}
		}
	}
}

func (h *history) compare(
	t *testing.T, b *Book, seed uint64, repos []reference.Repository, clients []Credentials, now time.Time, seen map[string]int,
) {
	t.Helper()
	for _, repo := range repos {
		offline := h.offline(repo, now)
		if got := b.Offline(repo); got != offline {
			t.Fatalf("seed %d, mode %d: %s without upstream: %t, want %t after %+v", seed, h.mode, repo, got, offline, h.all)
		}
		for _, c := range clients {
			want, got := h.judge(repo, c, now), b.Judge(repo, c)
			if got.Verdict != want.Verdict || got.AsClient != want.AsClient || !slices.Equal(got.Challenge, want.Challenge) {
				t.Fatalf("seed %d, mode %d: %s for %v: %+v, want %+v after %+v", seed, h.mode, repo, c, got, want, h.all)
			}
			seen[fmt.Sprint(want.Verdict, offline)]++
		}
	}
}

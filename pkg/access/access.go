// Package access decides who may read what: whose credentials count for a repository, whether a client has shown that
// upstream lets it read there, and in the names of which repositories content may be served.
//
// It is a book of remembered answers with the rules over it: it asks nobody, starts nothing and reads no clock of its
// own. Who fills it and acts on it is the mirror. It never holds a client's credentials, only what can't be turned
// back into them.
package access

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// Mode says whose credentials count for a repository.
type Mode int

const (
	// Auto reads with the node's own credentials, or anonymously where it has none, and gives what can be read so to
	// every client. Where upstream refuses that, clients have to bring credentials that upstream accepts.
	Auto Mode = iota
	// Relay is Auto without the node's own credentials.
	Relay
	// Verify is Relay that gives nothing on trust: what upstream can't be asked about is refused, also where it was
	// never seen to refuse anybody.
	Verify
	// Own never asks clients for anything: they read what the node's own credentials can read, and what it holds.
	Own
)

const (
	// maxRepositories, maxClients and maxRegistries bound the memories; all three take their names from clients.
	maxRepositories = 1 << 13
	maxClients      = 1 << 14
	maxRegistries   = 1 << 10
	// coolDown is how long a registry that could not be reached is not asked whether somebody may read, and recently how
	// long one that answered is expected to answer soon.
	coolDown = 30 * time.Second
	recently = time.Minute
	// sure is how long one that answered is taken to be there still.
	sure = 5 * time.Second
)

// Config says what the rules are. Durations have no defaults here: package config has them.
type Config struct {
	// Mode tells the mode of a repository. Nil is Auto for all.
	Mode func(repo reference.Repository) Mode
	// AcceptedFor is how long upstream's yes to a client's credentials counts for a repository. Longer spares upstream
	// requests; shorter sees sooner that somebody lost access.
	AcceptedFor time.Duration
	// RefusedFor is how long its no counts.
	RefusedFor time.Duration
	// OpenFor is how long a repository counts as one that needs nobody's credentials, or as one that does, without
	// asking again.
	OpenFor time.Duration
	// OfflineFor is how long content that needs a check is given without one while its registry can't be reached,
	// counted from the first question that found it so. Zero refuses at once.
	OfflineFor time.Duration
	Now        func() time.Time
}

// Verdict says on what ground a request goes on, if it does.
type Verdict int

const (
	// Unknown is a request that upstream has to judge.
	Unknown Verdict = iota
	// Open is a repository that every client of the node may read.
	Open
	// Accepted is a client whose credentials upstream accepted.
	Accepted
	// Refused is a client that has to come back with credentials, or with others.
	Refused
)

// Judgement is what the book says of a request.
type Judgement struct {
	Verdict Verdict
	// AsClient says that an Unknown request is to be judged by the client's credentials, and not by the node's.
	AsClient bool
	// Challenge is the WWW-Authenticate that upstream refused with. It may be empty.
	Challenge []string
}

// standing is what is known of a repository.
type standing struct {
	verdict   Verdict // Unknown, Open, or Refused for those that want credentials.
	at        time.Time
	challenge []string
}

// verdict is what upstream said of one client in one repository.
type verdict struct {
	accepted  bool
	at        time.Time
	challenge []string
}

type clientKey struct {
	repo   reference.Repository
	client ID
}

// contact is when a registry answered last, or since when it does not and when that was seen last.
type contact struct{ reached, since, missed time.Time }

// Book remembers what upstream said. It is safe for concurrent use.
type Book struct {
	cfg Config

	mu           sync.Mutex
	repositories *simplelru.LRU[reference.Repository, standing]
	clients      *simplelru.LRU[clientKey, verdict]
	contacts     *simplelru.LRU[string, contact]
	seen         *simplelru.LRU[digest.Digest, []place]
	changes      uint64
}

// New makes an empty book.
func New(cfg Config) *Book {
	if cfg.Mode == nil {
		cfg.Mode = func(reference.Repository) Mode { return Auto }
	}
	return &Book{
		cfg:          cfg,
		repositories: bounded[reference.Repository, standing](maxRepositories),
		clients:      bounded[clientKey, verdict](maxClients),
		contacts:     bounded[string, contact](maxRegistries),
		seen:         bounded[digest.Digest, []place](maxSeen),
	}
}

func bounded[K comparable, V any](most int) *simplelru.LRU[K, V] {
	l, _ := simplelru.NewLRU[K, V](most, nil) // It fails for sizes below one alone.
	return l
}

// Mode gives a repository's mode.
func (b *Book) Mode(repo reference.Repository) Mode { return b.cfg.Mode(repo) }

// Judge says what is known of a request for a repository by a client with these credentials, or without any.
func (b *Book) Judge(repo reference.Repository, c Credentials) Judgement {
	if b.cfg.Mode(repo) == Own {
		return Judgement{Verdict: Open}
	}
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := b.repositories.Get(repo)
	fresh := s.verdict != Unknown && now.Sub(s.at) < b.cfg.OpenFor
	switch {
	case fresh && s.verdict == Open:
		return Judgement{Verdict: Open}
	case c.IsZero() && fresh && len(s.challenge) > 0:
		return Judgement{Verdict: Refused, Challenge: s.challenge}
	case c.IsZero():
		return Judgement{} // Or refused without a challenge, which may have been anything.
	}
	if v, ok := b.clients.Get(clientKey{repo, c.id}); ok {
		switch age := now.Sub(v.at); {
		case v.accepted && age < b.cfg.AcceptedFor:
			return Judgement{Verdict: Accepted}
		case !v.accepted && age < b.cfg.RefusedFor:
			return Judgement{Verdict: Refused, Challenge: v.challenge}
		}
	}
	return Judgement{AsClient: fresh}
}

// Accept notes that upstream gave something of a repository to a client, or without any client's credentials: then
// the repository is open.
func (b *Book) Accept(repo reference.Repository, c Credentials) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.contacts.Add(repo.Registry, contact{reached: now})
	if !c.IsZero() {
		b.clients.Add(clientKey{repo, c.id}, verdict{accepted: true, at: now})
		return
	}
	b.stand(repo, standing{verdict: Open, at: now})
}

// Refuse notes that upstream refused a client, or whoever comes without a client's credentials.
func (b *Book) Refuse(repo reference.Repository, c Credentials, challenge []string) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.contacts.Add(repo.Registry, contact{reached: now})
	if !c.IsZero() {
		b.clients.Add(clientKey{repo, c.id}, verdict{at: now, challenge: slices.Clone(challenge)})
		return
	}
	b.stand(repo, standing{verdict: Refused, at: now, challenge: slices.Clone(challenge)})
}

// Hear notes another member's word that a repository was open some time ago. It never outweighs what this node has
// heard from upstream itself since.
func (b *Book) Hear(repo reference.Repository, age time.Duration) {
	at := b.cfg.Now().Add(-max(age, 0))
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, _ := b.repositories.Peek(repo); s.verdict == Unknown || s.at.Before(at) {
		b.stand(repo, standing{verdict: Open, at: at})
	}
}

// stand changes a repository's standing. Called with mu held.
func (b *Book) stand(repo reference.Repository, s standing) {
	old, _ := b.repositories.Peek(repo)
	b.repositories.Add(repo, s)
	if old.verdict != s.verdict || s.at.Sub(old.at) > b.cfg.OpenFor/4 {
		b.changes++
	}
}

// Reached notes that a registry answered.
func (b *Book) Reached(registry string) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.contacts.Add(registry, contact{reached: now})
}

// Missed notes that a registry could not be asked.
func (b *Book) Missed(registry string) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	c, _ := b.contacts.Get(registry)
	if c.since.IsZero() {
		c.since = now
	}
	c.missed = now
	b.contacts.Add(registry, c)
}

// Askable tells whether a registry is worth asking: it was not found unreachable a moment ago. expected says that it
// has answered lately, and so will soon.
func (b *Book) Askable(registry string) (ok, expected bool) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	c, _ := b.contacts.Peek(registry)
	return c.since.IsZero() || now.Sub(c.missed) >= coolDown, c.since.IsZero() && now.Sub(c.reached) < recently
}

// Doubts tells whether a refusal from memory is to be confirmed before somebody without credentials hears it: where
// configuration gives to everybody while the registry can't be reached, and it was not reached just now. A challenge is
// no answer then, for the token service is down as well, and nobody can bring what is asked for.
func (b *Book) Doubts(repo reference.Repository) bool {
	if b.cfg.OfflineFor == 0 || b.cfg.Mode(repo) == Own {
		return false
	}
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	c, _ := b.contacts.Peek(repo.Registry)
	return !c.since.IsZero() || now.Sub(c.reached) >= sure
}

// Offline tells whether what is held of a repository is given while its registry can't be reached: where nobody was
// ever refused it is, but for Verify; where somebody was, for as long as configuration allows.
func (b *Book) Offline(repo reference.Repository) bool {
	mode := b.cfg.Mode(repo)
	if mode == Own {
		return true
	}
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, _ := b.repositories.Peek(repo); s.verdict != Refused && mode != Verify {
		return true
	}
	c, _ := b.contacts.Peek(repo.Registry)
	return !c.since.IsZero() && now.Sub(c.since) < b.cfg.OfflineFor
}

// OpenSince tells since when a repository is known to be open, for other members. It is not ok where that is too long
// ago, or not so.
func (b *Book) OpenSince(repo reference.Repository) (at time.Time, ok bool) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := b.repositories.Peek(repo)
	return s.at, s.verdict == Open && now.Sub(s.at) < b.cfg.OpenFor
}

// Package access decides who may read what: whose credentials count for a repository, whether a client has shown that
// upstream lets it read there, and in the names of which repositories content may be served.
//
// It is a book of remembered answers with the rules over it: it asks nobody, starts nothing and reads no clock of its
// own. Who fills it and acts on it is the mirror. It never holds a client's credentials, only what can't be turned
// back into them.
package access

import (
	"sync"
	"time"

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
	// maxRepositories, maxClients and maxRegistries bound the memories, of which no registry's names can use up more than
	// its share: see fair.
	maxRepositories = 1 << 13
	maxClients      = 1 << 14
	maxRegistries   = 1 << 10
	// coolDown is how long a registry that could not be reached is not asked whether somebody may read.
	coolDown = 30 * time.Second
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

// Verdict is what the book knows of a request.
type Verdict int

const (
	// Unknown is a request that the registry has to judge.
	Unknown Verdict = iota
	// Open is a repository that every client of the node may read.
	Open
	// Accepted is a client whose credentials the registry accepted.
	Accepted
	// Refused is a client that has to come back with credentials, or with others.
	Refused
)

// Judgement is what the book says of a request.
type Judgement struct {
	Verdict Verdict
	// Grant is what an Open or Accepted request gets. Of others it gives nothing.
	Grant Grant
	// AsClient says that an Unknown request is to be judged by the client's credentials, and not by the node's.
	AsClient bool
	// Challenge is the WWW-Authenticate that the registry refused with. It may be empty.
	Challenge []string
}

// standing is what is known of a repository.
type standing struct {
	verdict   Verdict // Unknown, Open, or Refused for those that want credentials.
	at        time.Time
	challenge []string
}

// rank is in which order standings are given up for want of room: a refusal that is forgotten must be heard again.
func (s standing) rank() int {
	switch s.verdict {
	case Open:
		return 0
	case Refused:
		return 2
	}
	return 1
}

// verdict is what a registry said of one client in one repository.
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

// Book remembers what registries said. It is safe for concurrent use.
type Book struct {
	cfg Config

	mu           sync.Mutex
	repositories *fair[reference.Repository, standing]
	clients      *fair[clientKey, verdict]
	contacts     *fair[string, contact]
	manifests    *fair[reference.Repository, string]
	seen         *fair[digest.Digest, provenance]
	// forgot are the owners of registries of which a refusal was given up for want of room, and all of them with
	// forgotAll. What is unknown of them was perhaps refused.
	forgot    map[string]bool
	forgotAll bool
	changes   uint64
}

// New makes an empty book.
func New(cfg Config) *Book {
	if cfg.Mode == nil {
		cfg.Mode = func(reference.Repository) Mode { return Auto }
	}
	b := &Book{
		cfg:          cfg,
		repositories: newFair(maxRepositories, func(r reference.Repository, _ standing) string { return r.Registry }, standing.rank),
		clients:      newFair(maxClients, func(k clientKey, _ verdict) string { return k.repo.Registry }, func(verdict) int { return 0 }),
		contacts:     newFair(maxRegistries, func(registry string, _ contact) string { return registry }, func(contact) int { return 0 }),
		manifests:    newFair(maxRepositories, func(r reference.Repository, _ string) string { return r.Registry }, func(string) int { return 0 }),
		seen:         newFair(maxSeen, func(_ digest.Digest, p provenance) string { return p.registry() }, provenance.rank),
		forgot:       map[string]bool{},
	}
	b.repositories.lost = func(repo reference.Repository, s standing) {
		if s.verdict == Refused {
			b.forget(repo.Registry)
		}
	}
	return b
}

// forget notes that a refusal of a registry is remembered no more. Called with mu held.
func (b *Book) forget(registry string) {
	if len(b.forgot) >= maxRegistries {
		b.forgotAll = true
		return
	}
	b.forgot[reference.Owner(registry)] = true
}

// perhapsRefused tells whether a repository was refused, or may have been. Called with mu held.
func (b *Book) perhapsRefused(repo reference.Repository) bool {
	s, _ := b.repositories.peek(repo)
	return s.verdict == Refused || s.verdict == Unknown && (b.forgotAll || b.forgot[reference.Owner(repo.Registry)])
}

// Mode gives a repository's mode.
func (b *Book) Mode(repo reference.Repository) Mode { return b.cfg.Mode(repo) }

// Judge says what is known of a request for a repository by a client with these credentials, or without any.
func (b *Book) Judge(repo reference.Repository, c Credentials) Judgement {
	if b.cfg.Mode(repo) == Own {
		return Judgement{Verdict: Open, Grant: Grant{repo: repo, ground: Configured}}
	}
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := b.repositories.get(repo)
	fresh := b.fresh(s, now)
	switch {
	case fresh && s.verdict == Open:
		return Judgement{Verdict: Open, Grant: Grant{repo: repo, ground: Everybodys, at: s.at}}
	case c.IsZero() && fresh && len(s.challenge) > 0:
		return Judgement{Verdict: Refused, Challenge: s.challenge}
	case c.IsZero():
		return Judgement{} // Or refused without a challenge, which may have been anything.
	}
	if v, ok := b.clients.get(clientKey{repo, c.id}); ok {
		switch age := now.Sub(v.at); {
		case v.accepted && age < b.cfg.AcceptedFor:
			return Judgement{Verdict: Accepted, Grant: Grant{repo: repo, ground: Clients, at: v.at, client: c}}
		case !v.accepted && age < b.cfg.RefusedFor:
			return Judgement{Verdict: Refused, Challenge: v.challenge}
		}
	}
	return Judgement{AsClient: fresh}
}

// Unasked gives the grant of a request whose registry can't be asked. It is not ok where the rules want its word.
func (b *Book) Unasked(repo reference.Repository) (g Grant, ok bool) {
	if !b.Offline(repo) {
		return Grant{}, false
	}
	return Grant{repo: repo, ground: Unasked}, true
}

// stand changes a repository's standing. Called with mu held.
func (b *Book) stand(repo reference.Repository, s standing) {
	old, _ := b.repositories.peek(repo)
	b.repositories.put(repo, s)
	if old.verdict != s.verdict || s.at.Sub(old.at) > b.cfg.OpenFor/4 {
		b.changes++
	}
}

// Askable tells whether a registry is worth asking: it was not found unreachable a moment ago.
func (b *Book) Askable(registry string) bool {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	c, _ := b.contacts.peek(registry)
	return c.since.IsZero() || now.Sub(c.missed) >= coolDown
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
	c, _ := b.contacts.peek(repo.Registry)
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
	if mode != Verify && !b.perhapsRefused(repo) {
		return true
	}
	c, _ := b.contacts.peek(repo.Registry)
	return !c.since.IsZero() && now.Sub(c.since) < b.cfg.OfflineFor
}

// open tells whether everybody may read a repository, as its registry said lately. Called with mu held.
func (b *Book) open(repo reference.Repository, now time.Time) bool {
	s, _ := b.repositories.peek(repo)
	return s.verdict == Open && b.fresh(s, now)
}

// fresh tells whether what a registry said of a repository still counts.
func (b *Book) fresh(s standing, now time.Time) bool {
	return s.verdict != Unknown && now.Sub(s.at) < b.cfg.OpenFor
}

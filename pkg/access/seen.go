package access

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unique"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

const (
	// maxSeen bounds of how much content it is known where it is from, at some 250 bytes each.
	maxSeen = 1 << 17
	// maxPlaces bounds the repositories of one digest; the ones used last stay.
	maxPlaces = 16
)

// Claim is what a member says of its own client when it asks another one. Members take each other's word: who lies
// has the cluster's key.
type Claim string

const (
	// ClaimChecked says that the client may read the repository, as this member has found out.
	ClaimChecked Claim = "checked"
	// ClaimOpen says that nothing is known: only what everybody may read is wanted. No claim means the same.
	ClaimOpen Claim = "open"
	// ClaimOffline says that upstream can't be asked: all is wanted but what is known to need credentials.
	ClaimOffline Claim = "offline"
)

// place is a repository, at the size of a pointer.
type place = unique.Handle[reference.Repository]

// Saw notes that the bytes of some content came from a repository, by whatever way. It must not be called for what a
// registry merely says that it has: anybody can run a registry that says so of any digest.
func (b *Book) Saw(repo reference.Repository, content ...digest.Digest) {
	at := unique.Make(repo)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, dgst := range content {
		places, _ := b.seen.Get(dgst)
		if slices.Contains(places, at) {
			continue
		}
		if len(places) == maxPlaces {
			places = places[1:]
		}
		b.seen.Add(dgst, append(slices.Clone(places), at))
		b.changes++
	}
}

// Seen tells whether content may be served in a repository's name, to those who may read there: because it was seen
// there, or in one that everybody may read.
func (b *Book) Seen(repo reference.Repository, dgst digest.Digest) bool {
	if b.cfg.Mode(repo) == Own {
		return true
	}
	at := unique.Make(repo)
	b.mu.Lock()
	defer b.mu.Unlock()
	places, _ := b.seen.Get(dgst)
	return slices.Contains(places, at) || b.public(places)
}

// public tells whether content is known from a repository that everybody may read. Called with mu held.
func (b *Book) public(places []place) bool {
	return slices.ContainsFunc(places, func(p place) bool {
		s, _ := b.repositories.Peek(p.Value())
		return s.verdict == Open
	})
}

// Serves tells whether another member gets content that is Seen in a repository, by what it says of its client. An
// empty digest asks for what the repository's tags mean.
func (b *Book) Serves(repo reference.Repository, dgst digest.Digest, claim Claim) bool {
	if claim == ClaimChecked || b.cfg.Mode(repo) == Own {
		return true
	}
	if _, open := b.OpenSince(repo); open {
		return true
	}
	b.mu.Lock()
	places, _ := b.seen.Peek(dgst)
	public := b.public(places)
	s, _ := b.repositories.Peek(repo)
	b.mu.Unlock()
	if claim != ClaimOffline {
		return public
	}
	// Since when upstream is down, the member knows that found it so, and with an allowance for that it is bounded there.
	return public || b.cfg.OfflineFor > 0 || s.verdict != Refused && b.cfg.Mode(repo) != Verify
}

// snapshot is a book as it is written to disk. Nothing of clients is in it.
type snapshot struct {
	Version      int                  `json:"version"`
	Repositories []snapshotRepository `json:"repositories"`
	Seen         []snapshotSeen       `json:"seen"`
}

type snapshotRepository struct {
	Registry  string    `json:"registry"`
	Path      string    `json:"path"`
	Open      bool      `json:"open,omitempty"`
	Refused   bool      `json:"refused,omitempty"`
	At        time.Time `json:"at,omitzero"`
	Challenge []string  `json:"challenge,omitempty"`
}

type snapshotSeen struct {
	Digest digest.Digest `json:"digest"`
	In     []int         `json:"in"` // Indexes of repositories.
}

// Changes counts what a snapshot would have differently. Who writes snapshots compares it.
func (b *Book) Changes() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changes
}

// Snapshot gives what should outlive a restart: which repositories are open, and what was seen where.
func (b *Book) Snapshot() ([]byte, error) {
	b.mu.Lock()
	s := snapshot{Version: 1}
	index := map[reference.Repository]int{}
	number := func(repo reference.Repository) int {
		i, ok := index[repo]
		if !ok {
			i = len(s.Repositories)
			index[repo] = i
			s.Repositories = append(s.Repositories, snapshotRepository{Registry: repo.Registry, Path: repo.Path})
		}
		return i
	}
	for _, repo := range b.repositories.Keys() {
		known, _ := b.repositories.Peek(repo)
		r := &s.Repositories[number(repo)]
		r.Open, r.Refused, r.At, r.Challenge = known.verdict == Open, known.verdict == Refused, known.at, known.challenge
	}
	for _, dgst := range b.seen.Keys() {
		places, _ := b.seen.Peek(dgst)
		one := snapshotSeen{Digest: dgst}
		for _, p := range places {
			one.In = append(one.In, number(p.Value()))
		}
		s.Seen = append(s.Seen, one)
	}
	b.mu.Unlock()
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write down who may read what: %w", err)
	}
	return data, nil
}

// Restore takes a snapshot into an empty book. What can't be understood is left out, or all of it with an error.
func (b *Book) Restore(data []byte) error {
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("read who may read what: %w", err)
	}
	if s.Version != 1 {
		return fmt.Errorf("read who may read what: it is of version %d, and not 1", s.Version)
	}
	repos := make([]reference.Repository, len(s.Repositories))
	for i, r := range s.Repositories {
		repo, err := reference.NewRepository(r.Registry, r.Path)
		if err != nil || r.Registry == "" {
			continue
		}
		repos[i] = repo
		known := standing{at: r.At, challenge: r.Challenge}
		switch {
		case r.Open && !r.At.After(b.cfg.Now()):
			known.verdict = Open
		case r.Refused:
			known.verdict = Refused
		default:
			continue
		}
		b.mu.Lock()
		b.repositories.Add(repo, known)
		b.mu.Unlock()
	}
	for _, one := range s.Seen {
		if _, err := reference.ParseDigest(one.Digest.String()); err != nil {
			continue
		}
		for _, i := range one.In {
			if i >= 0 && i < len(repos) && repos[i].Path != "" {
				b.Saw(repos[i], one.Digest)
			}
		}
	}
	return nil
}

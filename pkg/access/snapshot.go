package access

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
	"unique"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// snapshotVersion is the format's. Version 1 took the runtime's claims for proof, so that what it calls seen is
// claimed, and opened repositories on grounds that count no more.
const snapshotVersion = 2

// snapshot is a book as it is written to disk. Nothing of clients is in it.
type snapshot struct {
	Version      int                  `json:"version"`
	Repositories []snapshotRepository `json:"repositories"`
	Seen         []snapshotSeen       `json:"seen"`
	// Forgot are the owners of registries of which a refusal was forgotten; ForgotAll says that all are.
	Forgot    []string `json:"forgot,omitempty"`
	ForgotAll bool     `json:"forgotAll,omitempty"`
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
	// In, indexes of repositories, is where its bytes came from, and Claimed in whose names the runtime has it.
	In      []int `json:"in,omitempty"`
	Claimed []int `json:"claimed,omitempty"`
	Crowded bool  `json:"crowded,omitempty"`
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
	s := snapshot{Version: snapshotVersion}
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
	b.repositories.all(func(repo reference.Repository, known standing) {
		r := &s.Repositories[number(repo)]
		r.Open, r.Refused, r.At, r.Challenge = known.verdict == Open, known.verdict == Refused, known.at, known.challenge
	})
	numbers := func(places []place) (in []int) {
		for _, p := range places {
			in = append(in, number(p.Value()))
		}
		return in
	}
	b.seen.all(func(dgst digest.Digest, p provenance) {
		s.Seen = append(s.Seen, snapshotSeen{Digest: dgst, In: numbers(p.proven), Claimed: numbers(p.claimed), Crowded: p.crowded})
	})
	s.Forgot, s.ForgotAll = slices.Sorted(maps.Keys(b.forgot)), b.forgotAll
	b.mu.Unlock()
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write down who may read what: %w", err)
	}
	return data, nil
}

// Restore takes a snapshot into an empty book. What can't be understood is left out. After an error nothing of it
// counts, and since refusals may be among what was lost, whatever is unknown may have been refused.
func (b *Book) Restore(data []byte) error {
	var s snapshot
	err := json.Unmarshal(data, &s)
	if err == nil && s.Version != snapshotVersion && s.Version != 1 {
		err = fmt.Errorf("it is of version %d, and not %d", s.Version, snapshotVersion)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.forgotAll = true
		return fmt.Errorf("read who may read what: %w", err)
	}
	for _, name := range s.Forgot[:min(len(s.Forgot), maxRegistries)] {
		b.forgot[name] = true
	}
	b.forgotAll = b.forgotAll || s.ForgotAll || len(s.Forgot) > maxRegistries
	places := make([]place, len(s.Repositories))
	for i, r := range s.Repositories {
		repo, err := reference.NewRepository(r.Registry, r.Path)
		if err != nil || r.Registry == "" {
			continue
		}
		places[i] = unique.Make(repo)
		known := standing{at: r.At, challenge: r.Challenge}
		switch {
		case r.Open && s.Version > 1 && !r.At.After(b.cfg.Now()):
			known.verdict = Open
		case r.Refused:
			known.verdict = Refused
		default:
			continue
		}
		b.repositories.put(repo, known)
	}
	for _, one := range s.Seen {
		if _, err := reference.ParseDigest(one.Digest.String()); err != nil {
			continue
		}
		p := provenance{proven: known(places, one.In), claimed: known(places, one.Claimed), crowded: one.Crowded}
		if s.Version == 1 {
			p = provenance{claimed: p.proven}
		}
		b.seen.put(one.Digest, p)
	}
	return nil
}

// known gives the places of a snapshot's indexes, but for those that could not be understood.
func known(places []place, in []int) (known []place) {
	for _, i := range in {
		if i >= 0 && i < len(places) && places[i] != (place{}) && len(known) < maxPlaces {
			known = append(known, places[i])
		}
	}
	return known
}

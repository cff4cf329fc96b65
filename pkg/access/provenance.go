package access

import (
	"net"
	"slices"
	"time"
	"unique"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

const (
	// maxSeen bounds of how much content it is known where it is from, at some 300 bytes each.
	maxSeen = 1 << 17
	// maxPlaces bounds the repositories of one digest.
	maxPlaces = 16
)

// place is a repository, at the size of a pointer.
type place = unique.Handle[reference.Repository]

// provenance is what is known of where some content is from.
type provenance struct {
	// proven are the repositories that bytes were seen to come from, which matched the digest.
	proven []place
	// claimed are those in whose names it is in the runtime: by an image record, by what an image lists, or by the
	// runtime's label. Anybody who chooses a manifest chooses these, so they prove nothing: they only matter for content
	// that nobody saw come, and there the most restricted of them decides. They stay when the image goes.
	claimed []place
	// crowded says that there were more claims than are kept: one that restricts may be missing.
	crowded bool
}

// registry gives whose content it is, for the bound on what is remembered.
func (p provenance) registry() string {
	switch {
	case len(p.proven) > 0:
		return p.proven[0].Value().Registry
	case len(p.claimed) > 0:
		return p.claimed[0].Value().Registry
	}
	return ""
}

// rank is in which order it is given up for want of room.
func (p provenance) rank() int {
	if len(p.proven) > 0 {
		return 2
	}
	return 1
}

// Saw notes that the bytes of some content came from a repository and matched the digest, by whatever way. It must not
// be called for what a registry merely says that it has: anybody can run a registry that says so of any digest.
func (b *Book) Saw(repo reference.Repository, content ...digest.Digest) {
	at := unique.Make(repo)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, dgst := range content {
		p, _ := b.seen.get(dgst)
		if slices.Contains(p.proven, at) {
			continue
		}
		p.proven = append(slices.Clone(p.proven), at)
		if len(p.proven) > maxPlaces {
			p.proven = slices.Delete(p.proven, crowdedMost(p.proven), crowdedMost(p.proven)+1)
		}
		b.seen.put(dgst, p)
		b.changes++
	}
}

// crowdedMost gives the newest place of the owner that has most of them, so that nobody's many names push out
// another's.
func crowdedMost(places []place) int {
	count, most := map[string]int{}, 0
	for i, p := range places {
		name := reference.Owner(p.Value().Registry)
		count[name]++
		if count[name] >= count[reference.Owner(places[most].Value().Registry)] {
			most = i
		}
	}
	return most
}

// Label is what the runtime's label says of some content: a registry's host, without its port, and a repository there.
type Label struct {
	Host, Path string
	Digest     digest.Digest
}

// Claim notes in which repositories' names the runtime has content that nobody saw come, all that it says at once:
// a client that asks meanwhile must not find one claim without those that restrict it.
func (b *Book) Claim(claims map[reference.Repository][]digest.Digest, labels []Label) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for repo, content := range claims {
		for _, dgst := range content {
			b.claim(unique.Make(repo), dgst)
		}
	}
	for _, l := range labels {
		b.claimLabelled(l)
	}
}

// claimLabelled notes what a label says. One that a repository with that path at some port of the host explains says
// nothing new. Called with mu held.
func (b *Book) claimLabelled(l Label) {
	host, path, dgst := l.Host, l.Path, l.Digest
	repo, err := reference.NewRepository(host, path)
	if err != nil || host == "" {
		return
	}
	p, _ := b.seen.peek(dgst)
	explained := func(at place) bool {
		other := at.Value()
		name, _, err := net.SplitHostPort(other.Registry)
		return other.Path == path && (other.Registry == host || err == nil && name == host)
	}
	if !slices.ContainsFunc(p.proven, explained) && !slices.ContainsFunc(p.claimed, explained) {
		b.claim(unique.Make(repo), dgst)
	}
}

// claim notes one claim. Called with mu held.
func (b *Book) claim(at place, dgst digest.Digest) {
	p, _ := b.seen.get(dgst)
	switch {
	case slices.Contains(p.claimed, at), p.crowded:
		return
	case len(p.claimed) == maxPlaces:
		p.crowded = true
	default:
		p.claimed = append(slices.Clone(p.claimed), at)
	}
	b.seen.put(dgst, p)
	b.changes++
}

// Belongs tells whether content may be given in a repository's name, to those who may read there: because its bytes
// came from there, or from a repository that everybody may read. Content that nobody saw come is given in the names
// that claim it, if none of the others is restricted. unasked says that registries can't be asked, so that what was
// never heard of is judged as Offline does.
func (b *Book) Belongs(repo reference.Repository, dgst digest.Digest, unasked bool) bool {
	at, now := unique.Make(repo), b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	p, _ := b.seen.get(dgst)
	switch {
	case slices.Contains(p.proven, at), b.public(p, now):
		return true
	case len(p.proven) > 0, p.crowded, b.cfg.Mode(repo) == Verify, !slices.Contains(p.claimed, at):
		return false
	}
	return !slices.ContainsFunc(p.claimed, func(other place) bool {
		return other != at && b.restricted(other.Value(), now) && !(unasked && b.passes(other.Value(), repo, now))
	})
}

// Proven tells whether it is known where some content's bytes came from.
func (b *Book) Proven(dgst digest.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, _ := b.seen.peek(dgst)
	return len(p.proven) > 0
}

// public tells whether the bytes of some content came from a repository that everybody may read. Called with mu held.
func (b *Book) public(p provenance, now time.Time) bool {
	return slices.ContainsFunc(p.proven, func(at place) bool { return !b.restricted(at.Value(), now) })
}

// restricted tells whether a repository is one that not everybody may read, as far as is known. Called with mu held.
func (b *Book) restricted(repo reference.Repository, now time.Time) bool {
	return b.cfg.Mode(repo) != Own && !b.open(repo, now)
}

// passes tells whether a repository was never heard to be restricted and can't be asked: because its registry is the
// one that who asks for another repository can't ask, or because this node missed it a moment ago. Who has a registry
// of his own that is down says nothing of others. Called with mu held.
func (b *Book) passes(repo, asked reference.Repository, now time.Time) bool {
	c, _ := b.contacts.peek(repo.Registry)
	down := repo.Registry == asked.Registry || !c.since.IsZero() && now.Sub(c.missed) < coolDown
	return down && b.cfg.Mode(repo) != Verify && !b.perhapsRefused(repo)
}

// Serves tells whether another member gets content that Belongs to a repository, by what it says of its client. An
// empty digest asks for what the repository's tags mean.
func (b *Book) Serves(repo reference.Repository, dgst digest.Digest, claim Claim) bool {
	mode, now := b.cfg.Mode(repo), b.cfg.Now()
	if claim == ClaimChecked || mode == Own {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, _ := b.seen.peek(dgst)
	switch {
	case b.open(repo, now), b.public(p, now):
		return true
	case claim != ClaimOffline:
		return false
	}
	// Since when the registry is down, the member knows that found it so, and with an allowance for that it is bounded
	// there.
	return b.cfg.OfflineFor > 0 || mode != Verify && !b.perhapsRefused(repo)
}

package access

import (
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// Asked is what a registry was asked for.
type Asked uint8

const (
	// List is tags or referrers. Registries answer for them before they look at who asks, or by a service of its own.
	List Asked = iota
	// Content is a manifest or a blob.
	Content
)

// Speaker is who answered.
type Speaker uint8

const (
	// Nobody answered: no connection, no answer in time, or one that breaks HTTP.
	Nobody Speaker = iota
	// Storage is whatever a registry redirected to. It says nothing of who may read.
	Storage
	// Registry is the registry's own origin, or another registry's API that it sent a request for a manifest on to.
	Registry
)

// Answer is how a registry answered one question. It is what a book learns from, and all that it learns from.
type Answer struct {
	Repository reference.Repository
	// Credentials are those of the client that was asked for, if they were used.
	Credentials Credentials
	Asked       Asked
	// Manifest is the tag or digest of the manifest that was asked for. It is empty for blobs and lists.
	Manifest string
	Speaker  Speaker
	// Status is the HTTP status.
	Status int
	// Named says that the answer named what it was asked for: a manifest that was read, or a digest in the header. Pages
	// that a front end gives for everything don't.
	Named bool
	// Challenge is the WWW-Authenticate of a refusal. It may be empty.
	Challenge []string
	// Down says that the registry could not answer, for reasons that have nothing to do with who asks.
	Down bool
}

// yes is a registry's word that whoever asked may read a repository: its own origin answered 2xx to a request for
// content. It is the only thing that opens a repository or accepts a client, and only Answer.yes makes it.
type yes struct {
	repo     reference.Repository
	client   Credentials
	manifest string
}

// yes reads an answer as the registry's word, if it is that. A 404 is none, for registries give it before they look at
// who asks; a list is none; and storage knows nobody.
func (a Answer) yes() (yes, bool) {
	ok := a.Asked == Content && a.Speaker == Registry && a.Status/100 == 2 && a.Named
	return yes{a.Repository, a.Credentials, a.Manifest}, ok
}

// refuses tells whether the registry itself wants to know who asks, or does not let whoever asked.
func (a Answer) refuses() bool { return a.Speaker == Registry && (a.Status == 401 || a.Status == 403) }

// Learn takes note of a registry's answer.
func (b *Book) Learn(a Answer) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch registry := a.Repository.Registry; {
	case a.Down:
		b.missed(registry, now)
		return
	case a.Speaker == Registry:
		b.contacts.put(registry, contact{reached: now})
	}
	if word, ok := a.yes(); ok {
		b.accept(word, now)
	} else if a.refuses() {
		b.refuse(a.Repository, a.Credentials, a.Challenge, now)
	}
}

// accept notes a registry's word. Called with mu held.
func (b *Book) accept(word yes, now time.Time) {
	if word.manifest != "" {
		b.manifests.put(word.repo, word.manifest)
	}
	if !word.client.IsZero() {
		b.clients.put(clientKey{word.repo, word.client.id}, verdict{accepted: true, at: now})
		return
	}
	b.stand(word.repo, standing{verdict: Open, at: now})
}

// Manifest gives the tag or digest of a manifest of a repository that its registry gave to somebody. Registries answer
// for manifests themselves and lead to storage for blobs, so that it is the better question of who may read there.
func (b *Book) Manifest(repo reference.Repository) (tagOrDigest string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.manifests.get(repo)
}

// refuse notes that a registry refused a client, or whoever comes without a client's credentials. Called with mu held.
func (b *Book) refuse(repo reference.Repository, c Credentials, challenge []string, now time.Time) {
	if !c.IsZero() {
		b.clients.put(clientKey{repo, c.id}, verdict{at: now, challenge: slices.Clone(challenge)})
		return
	}
	b.stand(repo, standing{verdict: Refused, at: now, challenge: slices.Clone(challenge)})
}

// missed notes that a registry could not be asked. Called with mu held.
func (b *Book) missed(registry string, now time.Time) {
	c, _ := b.contacts.get(registry)
	if c.since.IsZero() {
		c.since = now
	}
	c.missed = now
	b.contacts.put(registry, c)
}

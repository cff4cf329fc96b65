package mirror

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// claimsEvery is how often the runtime's claims are read at most.
	claimsEvery = 5 * time.Second
	// settled is how long the runtime must have held content before claims to it count: it says whose it is, by a label
	// and at last by an image record, only after it has it.
	settled = 5 * time.Second
	// maxImages bounds how many manifests are read each time.
	maxImages = 1 << 12
)

// Catalogue is a TagStore that says in whose names it has its content. Whoever chooses manifests chooses these.
type Catalogue interface {
	// Claims gives what image records say. What is not complete may lack one that restricts another.
	Claims() (claims []content.Claim, complete bool)
	// Labels calls each with what labels say: a registry's host, without its port, and a repository there.
	Labels(ctx context.Context, each func(host, path string, dgst digest.Digest)) error
	// Held tells since when content is there.
	Held(dgst digest.Digest) (since time.Time, ok bool)
}

// claims is when claims were read last.
type claims struct {
	mu   sync.Mutex
	read time.Time
}

// belongs tells whether content may be given in a repository's name. unasked says that registries can't be asked.
func (l *Local) belongs(ctx context.Context, repo reference.Repository, dgst digest.Digest, unasked bool) bool {
	book := l.Access
	if book == nil || book.Belongs(repo, dgst, unasked) {
		return true
	}
	if book.Proven(dgst) || book.Mode(repo) == access.Verify || !l.claimable(dgst) {
		return false // Claims make no difference.
	}
	l.Attribute(ctx)
	return book.Belongs(repo, dgst, unasked)
}

// claimable tells whether the runtime has held some content for long enough to have said whose it is.
func (l *Local) claimable(dgst digest.Digest) bool {
	return slices.ContainsFunc(l.Runtime, func(s content.TagStore) bool {
		c, ok := s.(Catalogue)
		return ok && l.settled(c, dgst)
	})
}

func (l *Local) settled(c Catalogue, dgst digest.Digest) bool {
	since, ok := c.Held(dgst)
	return ok && l.Now().Sub(since) >= settled
}

// Attribute reads in whose names the runtime has its content, unless that was done a moment ago.
func (l *Local) Attribute(ctx context.Context) {
	if l.Access == nil {
		return
	}
	l.claims.mu.Lock()
	defer l.claims.mu.Unlock()
	if now := l.Now(); now.Sub(l.claims.read) >= claimsEvery {
		l.claims.read = now
		for _, s := range l.Runtime {
			if c, ok := s.(Catalogue); ok {
				l.attribute(ctx, c)
			}
		}
	}
}

// attribute notes what the runtime's images consist of, and what its labels say.
func (l *Local) attribute(ctx context.Context, c Catalogue) {
	claims, complete := c.Claims()
	if !complete {
		return
	}
	counts := func(dgst digest.Digest) bool { return l.settled(c, dgst) && !l.Access.Proven(dgst) }
	var labels []access.Label
	err := c.Labels(ctx, func(host, path string, dgst digest.Digest) {
		if counts(dgst) {
			labels = append(labels, access.Label{Host: host, Path: path, Digest: dgst})
		}
	})
	if err != nil {
		l.claims.read = time.Time{} // Once more, as soon as somebody asks: without labels a claim may lack what restricts it.
		return
	}
	trees, named := map[digest.Digest][]digest.Digest{}, map[reference.Repository][]digest.Digest{}
	for _, claim := range claims {
		if _, ok := trees[claim.Target]; !ok {
			if len(trees) == maxImages {
				return // More than are read: those that restrict others may be among the rest.
			}
			trees[claim.Target] = l.tree(ctx, claim.Target)
		}
		for _, dgst := range trees[claim.Target] {
			if counts(dgst) {
				named[claim.Repository] = append(named[claim.Repository], dgst)
			}
		}
	}
	l.Access.Claim(named, labels)
}

// tree gives a held manifest and all that it consists of, as far as that is held.
func (l *Local) tree(ctx context.Context, target digest.Digest) (all []digest.Digest) {
	known := map[digest.Digest]bool{target: true}
	all = append(all, target)
	for next, read := []digest.Digest{target}, 0; len(next) > 0 && read < maxImages; read++ {
		children, err := l.children(ctx, next[0])
		next = next[1:]
		if err != nil {
			continue // It is not all there, or no manifest.
		}
		for _, child := range children {
			if known[child.Digest] {
				continue
			}
			known[child.Digest] = true
			all = append(all, child.Digest)
			if content.IsManifestType(child.MediaType) {
				next = append(next, child.Digest)
			}
		}
	}
	return all
}

// children reads what a held manifest lists.
func (l *Local) children(ctx context.Context, dgst digest.Digest) ([]ocispec.Descriptor, error) {
	a, err := l.open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer a.Blob.Close()
	body, err := content.ReadAll(ctx, a.Blob, content.MaxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", dgst, err)
	}
	return content.Children(body)
}

// serves refuses another member what it may not have, by what it says of its client. An empty digest is what a tag
// means.
func (l *Local) serves(ctx context.Context, repo reference.Repository, dgst digest.Digest, claim access.Claim) error {
	book := l.Access
	if book == nil || book.Serves(repo, dgst, claim) && (dgst == "" || l.belongs(ctx, repo, dgst, claim == access.ClaimOffline)) {
		return nil
	}
	return fmt.Errorf("%s is not for everybody, or nothing of it is known here: %w", repo, content.ErrNotFound)
}

// scopes gives those whose flights another member may read, by what it says of its client. What everybody's flights
// bring comes from repositories that everybody may read.
func (l *Local) scopes(ref reference.Reference, claim access.Claim) []string {
	if book := l.Access; book == nil || !book.Serves(ref.Repository, ref.Digest, claim) {
		return []string{""}
	}
	return access.Scopes(ref.Repository)
}

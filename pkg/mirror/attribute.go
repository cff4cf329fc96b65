package mirror

import (
	"context"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// attributeEvery is how often the runtime's images of one repository are looked through.
	attributeEvery = 10 * time.Second
	// maxAttributed bounds of how many repositories it is known when that was, and maxImages how many manifests are read
	// each time.
	maxAttributed = 1 << 12
	maxImages     = 1 << 10
)

// Catalogue is a TagStore that knows all that it has of a repository.
type Catalogue interface {
	// Targets gives the manifests that the repository's tags mean.
	Targets(repo reference.Repository) []digest.Digest
}

// Gate is what keeps content to those who may read it. The zero value keeps nothing.
type Gate struct {
	// Access has the rules. Nil lets everybody read everything.
	Access *access.Book

	mu     sync.Mutex
	looked *lru.Cache[reference.Repository, time.Time]
}

// seen tells whether content may be served in a repository's name. What came to this node past the mirror, by a pull
// that did not ask it or by an import, belongs to the repositories of the images that the runtime has of it.
func (l *Local) seen(ctx context.Context, repo reference.Repository, dgst digest.Digest) bool {
	book := l.Gate.Access
	if book == nil || book.Seen(repo, dgst) {
		return true
	}
	if !l.Gate.due(repo, l.Now()) {
		return false
	}
	l.attribute(ctx, repo)
	return book.Seen(repo, dgst)
}

// due says whether it is time to look through a repository's images again.
func (g *Gate) due(repo reference.Repository, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looked == nil {
		g.looked, _ = lru.New[reference.Repository, time.Time](maxAttributed) // It fails for sizes below one alone.
	}
	if at, ok := g.looked.Get(repo); ok && now.Sub(at) < attributeEvery {
		return false
	}
	g.looked.Add(repo, now)
	return true
}

// attribute notes what the runtime's images of a repository consist of.
func (l *Local) attribute(ctx context.Context, repo reference.Repository) {
	var next []digest.Digest
	for _, s := range l.Runtime {
		if c, ok := s.(Catalogue); ok {
			next = append(next, c.Targets(repo)...)
		}
	}
	known := map[digest.Digest]bool{}
	for read := 0; len(next) > 0 && read < maxImages; read++ {
		dgst := next[0]
		next = next[1:]
		if known[dgst] {
			continue
		}
		known[dgst] = true
		l.Gate.Access.Saw(repo, dgst)
		children, err := l.children(ctx, dgst)
		if err != nil {
			continue // It is not all there, or no manifest.
		}
		for _, child := range children {
			l.Gate.Access.Saw(repo, child.Digest)
			if content.IsManifestType(child.MediaType) {
				next = append(next, child.Digest)
			}
		}
	}
}

// serves refuses another member what it may not have, by what it says of its client. An empty digest is what a tag
// means.
func (l *Local) serves(ctx context.Context, repo reference.Repository, dgst digest.Digest, claim access.Claim) error {
	book := l.Gate.Access
	if book == nil || (dgst == "" || l.seen(ctx, repo, dgst)) && book.Serves(repo, dgst, claim) {
		return nil
	}
	return fmt.Errorf("%s is not for everybody, or nothing of it is known here: %w", repo, content.ErrNotFound)
}

// scopes gives those whose flights another member may read, by what it says of its client. What everybody's flights
// bring comes from repositories that everybody may read.
func (l *Local) scopes(ref reference.Reference, claim access.Claim) []string {
	if book := l.Gate.Access; book == nil || !book.Serves(ref.Repository, ref.Digest, claim) {
		return []string{""}
	}
	return []string{"", clientsOf(ref.Repository), offlineOf(ref.Repository)}
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

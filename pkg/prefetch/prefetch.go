// Package prefetch brings images into this node's cache before somebody asks for them, and says which nodes are to hold
// one.
//
// It asks the node's own mirror as a client would, for everything that this node's platform needs of an image, and
// throws the bytes away: what they leave behind in the cache is what it is for. Nodes that bring in the same image at
// the same time share its bytes as all pulls do.
package prefetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

const (
	// step is how many bytes are read at once, and after how many progress is told.
	step = 4 << 20
	// maxDepth bounds how deeply indexes nest.
	maxDepth = 4
	// tellEvery is how often progress is told at most.
	tellEvery = 250 * time.Millisecond
)

// Backend is the node's mirror.
type Backend interface {
	Manifest(ctx context.Context, ref reference.Reference, origin upstream.Origin) (*mirror.Answer, error)
	Blob(ctx context.Context, ref reference.Reference, resumed bool, origin upstream.Origin) (*mirror.Answer, error)
}

// Progress is how far one image is on one node.
type Progress struct {
	// Node is where a member's peer API is reached, or "this node".
	Node  string `json:"node"`
	Image string `json:"image"`
	// Digest is what the image's tag means, once that is known.
	Digest string `json:"digest,omitempty"`
	// Bytes of Total are there. Fetched counts those that were not there before.
	Bytes   int64 `json:"bytes"`
	Total   int64 `json:"total"`
	Fetched int64 `json:"fetched"`
	// Done says that this is the last word; Error is why it failed, if it did.
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// Config is what a Prefetcher needs.
type Config struct {
	Backend Backend
	// Check refuses what the mirror would not answer for. Nil refuses nothing.
	Check func(repo reference.Repository) error
	// Parallel is how many blobs are on their way at once, over all images. 2 by default.
	Parallel int
	// Platform says what of an index is for this node. Nil is the platform that this program runs on.
	Platform platforms.MatchComparer

	Log logr.Logger
}

// Prefetcher brings images in. It is safe for concurrent use.
type Prefetcher struct {
	cfg   Config
	blobs *semaphore.Weighted
}

// New makes a Prefetcher.
func New(cfg Config) *Prefetcher {
	if cfg.Parallel == 0 {
		cfg.Parallel = 2
	}
	if cfg.Platform == nil {
		cfg.Platform = platforms.Only(platforms.DefaultSpec())
	}
	return &Prefetcher{cfg: cfg, blobs: semaphore.NewWeighted(int64(cfg.Parallel))}
}

// Pull brings an image in, and tells how far it is, one call after the other, the last one with Done. The error is what
// that says too.
func (p *Prefetcher) Pull(ctx context.Context, image string, tell func(Progress)) error {
	r := &run{p: p, tell: tell, state: Progress{Image: image}}
	err := r.pull(ctx, image)
	r.state.Done = true
	if err != nil {
		r.state.Error = err.Error()
		p.cfg.Log.Info("image not brought in", "image", image, "reason", err.Error())
	} else {
		p.cfg.Log.Info("image brought in", "image", image, "digest", r.state.Digest, "bytes", r.state.Total, "fetched", r.state.Fetched)
	}
	tell(r.state)
	return err
}

// run is one image on its way.
type run struct {
	p    *Prefetcher
	tell func(Progress)

	mu    sync.Mutex
	state Progress
	told  time.Time
}

func (r *run) pull(ctx context.Context, image string) error {
	ref, err := reference.Parse(image)
	if err != nil {
		return err
	}
	if r.p.cfg.Check != nil {
		if err := r.p.cfg.Check(ref.Repository); err != nil {
			return err
		}
	}
	manifest, err := r.manifest(ctx, ref)
	if err != nil {
		return err
	}
	children, err := content.Children(manifest)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	r.update(func(s *Progress) {
		for _, c := range children {
			s.Total += c.Size
		}
	})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		group  sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	for _, c := range children {
		if err := r.p.blobs.Acquire(ctx, 1); err != nil {
			break // A blob has failed, or who asked has left.
		}
		group.Go(func() {
			defer r.p.blobs.Release(1)
			if err := r.blob(ctx, reference.Reference{Repository: ref.Repository, Digest: c.Digest}); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil {
					failed = err
				}
				cancel()
			}
		})
	}
	group.Wait()
	return cmp.Or(failed, context.Cause(ctx))
}

// manifest gets the manifest of the image for this node's platform.
func (r *run) manifest(ctx context.Context, ref reference.Reference) ([]byte, error) {
	for depth := 0; ; depth++ {
		body, desc, err := r.read(ctx, ref)
		if err != nil {
			return nil, err
		}
		if depth == 0 {
			r.update(func(s *Progress) { s.Digest = desc.Digest.String() })
		}
		if depth == maxDepth {
			return nil, fmt.Errorf("%s: indexes nest too deeply", ref)
		}
		var index ocispec.Index
		if err := json.Unmarshal(body, &index); err != nil {
			return nil, fmt.Errorf("%s: parse manifest: %w", ref, err)
		}
		if len(index.Manifests) == 0 {
			return body, nil
		}
		best, ok := r.p.best(index.Manifests)
		if !ok {
			return nil, fmt.Errorf("%s has nothing for this node's platform", ref)
		}
		ref = reference.Reference{Repository: ref.Repository, Digest: best.Digest}
	}
}

// best chooses what of an index is for this node, as the runtime would.
func (p *Prefetcher) best(all []ocispec.Descriptor) (ocispec.Descriptor, bool) {
	var fit []ocispec.Descriptor
	for _, d := range all {
		if d.Platform != nil && p.cfg.Platform.Match(*d.Platform) {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, false
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case p.cfg.Platform.Less(*a.Platform, *b.Platform):
			return -1
		case p.cfg.Platform.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return fit[0], true
}

func (r *run) read(ctx context.Context, ref reference.Reference) ([]byte, ocispec.Descriptor, error) {
	a, err := r.p.cfg.Backend.Manifest(ctx, ref, upstream.Origin{})
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	defer a.Blob.Close()
	body, err := content.ReadAll(ctx, a.Blob, content.MaxManifestBytes)
	return body, a.Descriptor, err
}

// blob brings one blob in. Of one that is held nothing is read.
func (r *run) blob(ctx context.Context, ref reference.Reference) error {
	a, err := r.p.cfg.Backend.Blob(ctx, ref, false, upstream.Origin{})
	if err != nil {
		return err
	}
	defer a.Blob.Close()
	arriving, ok := a.Blob.(content.Arriving)
	if !ok {
		r.update(func(s *Progress) { s.Bytes += a.Blob.Size() })
		return nil
	}
	if err := arriving.Ready(ctx, 0); err != nil {
		return err
	}
	for off, size := int64(0), a.Blob.Size(); off < size; {
		n, err := a.Blob.CopyRange(ctx, io.Discard, off, min(step, size-off))
		off += n
		r.update(func(s *Progress) {
			s.Bytes += n
			s.Fetched += n
		})
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
	}
	return nil
}

// update changes the state, and tells it now and then.
func (r *run) update(change func(*Progress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state)
	if now := time.Now(); now.Sub(r.told) >= tellEvery {
		r.told = now
		r.tell(r.state)
	}
}

// Node is a node that can hold images.
type Node struct {
	ID, Zone string
}

// Choose gives the nodes that are to hold an image: of those in zones, or of all if there are none, as many as copies
// says, or all if that is zero. All who know the same nodes choose the same, and different images are spread over them.
func Choose(image string, zones []string, copies int, nodes []Node) []Node {
	var chosen []Node
	for _, n := range nodes {
		if len(zones) == 0 || slices.Contains(zones, n.Zone) {
			chosen = append(chosen, n)
		}
	}
	rank := func(n Node) string {
		sum := sha256.Sum256([]byte(image + "\x00" + n.ID))
		return string(sum[:])
	}
	slices.SortFunc(chosen, func(a, b Node) int { return cmp.Compare(rank(a), rank(b)) })
	if copies > 0 && copies < len(chosen) {
		chosen = chosen[:copies]
	}
	return chosen
}

// ErrBusy says that as many images are being brought in as may be.
var ErrBusy = errors.New("too many images are being brought in")

// Gate bounds how many images are brought in at once for those who ask. It is safe for concurrent use.
type Gate struct {
	most int64
	now  atomic.Int64
}

// NewGate makes a gate for that many.
func NewGate(most int) *Gate { return &Gate{most: int64(most)} }

// Enter takes a place, and gives what frees it.
func (g *Gate) Enter() (leave func(), err error) {
	if g.now.Add(1) > g.most {
		g.now.Add(-1)
		return nil, ErrBusy
	}
	return func() { g.now.Add(-1) }, nil
}

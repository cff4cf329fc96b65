package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// octetStream is the media type of what has none of its own.
const octetStream = "application/octet-stream"

// Local answers from what this node holds, and asks nobody: it is what other members see of the node. It is safe for
// concurrent use.
type Local struct {
	// Held is asked in this order.
	Held []Held
	// Keeper knows what tags mean by upstream's word. Nil knows none.
	Keeper content.TagStore
	// Runtime knows what tags mean by the word of those who pulled them.
	Runtime []content.TagStore
	// Policy says what is not given to other members. Nil gives everything.
	Policy *policy.Policy
	// Withheld tells the blobs that may not be passed on. Nil withholds none.
	Withheld func(ref reference.Reference) bool
	// Flights has parts of what is on its way. Nil has nothing.
	Flights *flight.Group
	Now     func() time.Time
	// Access has the rules of who may read what. Nil lets everybody read everything.
	Access *access.Book

	claims claims
	// forgotten has when tags were forgotten: what the runtime wrote before says nothing any more.
	forgotten *lru.Cache[string, time.Time]
	// memory has the manifests that passed by last; nil has none. A runtime may take a moment to hold them too.
	memory *lru.Cache[digest.Digest, fetched]
}

// Check refuses requests for what other members get nothing of.
func (l *Local) Check(repo reference.Repository) error {
	if l.Policy == nil || repo.Registry == "" {
		return nil
	}
	if l.Policy.Denied(repo) || repo.Path != "" && !l.Policy.Route(repo).AsksMembers() {
		return fmt.Errorf("%s: %w", repo, ErrDenied)
	}
	return nil
}

// open opens held content. Stores that fail are passed over: what they hold can be had elsewhere.
func (l *Local) open(ctx context.Context, dgst digest.Digest) (*Answer, error) {
	var failed error
	for _, h := range l.Held {
		blob, err := h.Store.Open(ctx, dgst)
		if err == nil {
			desc := ocispec.Descriptor{MediaType: blob.MediaType(), Digest: dgst, Size: blob.Size()}
			return &Answer{Blob: blob, Descriptor: desc, Source: h.Name}, nil
		}
		if !errors.Is(err, content.ErrNotFound) {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", h.Name, err))
		}
	}
	if failed != nil {
		return nil, fmt.Errorf("open %s: %w", dgst, failed)
	}
	return nil, fmt.Errorf("%s: %w", dgst, content.ErrNotFound)
}

// Holds tells whether all of a blob is held here, or is just about to be, for a member that says that of its client.
func (l *Local) Holds(ctx context.Context, ref reference.Reference, claim access.Claim) bool {
	a, err := l.Blob(ctx, ref, false, upstream.Origin{Claim: claim})
	if err != nil {
		return false
	}
	defer a.Blob.Close()
	part, arriving := a.Blob.(*flight.Part)
	return !arriving || part.Covers(0, part.Size()) == nil
}

// manifest opens held content as a manifest, whose media type clients can't do without.
func (l *Local) manifest(ctx context.Context, dgst digest.Digest) (*Answer, error) {
	a, err := l.open(ctx, dgst)
	if err != nil && l.memory != nil {
		if f, ok := l.memory.Peek(dgst); ok {
			return f.answer(), nil
		}
	}
	if err != nil || a.Descriptor.MediaType != "" && a.Descriptor.MediaType != octetStream {
		return a, err
	}
	// It was asked for as a blob before, or was found in a store that keeps no media types.
	defer a.Blob.Close()
	body, err := content.ReadAll(ctx, a.Blob, content.MaxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", dgst, err)
	}
	if a.Descriptor.MediaType = content.ManifestType(body); a.Descriptor.MediaType == "" {
		return nil, fmt.Errorf("%s is held, but is no manifest: %w", dgst, content.ErrNotFound)
	}
	a.Blob = content.Bytes{Body: body, Type: a.Descriptor.MediaType}
	return a, nil
}

// tag gives the newest of what the stores know of a tag. vouched says that it is upstream's word, and then Confirmed is
// when that was heard; else it is when the runtime wrote its record.
func (l *Local) tag(ctx context.Context, ref reference.Reference) (newest content.Tag, vouched bool, err error) {
	err = fmt.Errorf("%s: %w", ref, content.ErrNotFound)
	var kept content.Tag
	if l.Keeper != nil {
		if kept, err = l.Keeper.Tag(ctx, ref); err == nil {
			newest, vouched = kept, true
		}
	}
	for _, s := range l.Runtime {
		tag, terr := s.Tag(ctx, ref)
		switch {
		case terr == nil && l.isForgotten(ref, tag):
		case terr != nil && err != nil && !errors.Is(terr, content.ErrNotFound):
			err = fmt.Errorf("look up %s: %w", ref, terr)
		case terr == nil && tag.Target.Digest != kept.Target.Digest && (err != nil || tag.Confirmed.After(newest.Confirmed)):
			newest, vouched, err = tag, false, nil
		}
	}
	return newest, vouched, err
}

// isForgotten tells whether a runtime's record is older than the wish to forget what the tag meant.
func (l *Local) isForgotten(ref reference.Reference, tag content.Tag) bool {
	if l.forgotten == nil {
		return false
	}
	at, ok := l.forgotten.Peek(ref.String())
	return ok && !tag.Confirmed.After(at)
}

// Manifest answers with a held manifest.
func (l *Local) Manifest(ctx context.Context, ref reference.Reference, o upstream.Origin) (*Answer, error) {
	if err := l.serves(ctx, ref.Repository, ref.Digest, o.Claim); err != nil {
		return nil, err
	}
	if ref.Digest != "" {
		return l.manifest(ctx, ref.Digest)
	}
	if l.Policy != nil && !l.Policy.Tag(ref).Answers() {
		return nil, fmt.Errorf("%s: %w", ref, ErrDenied)
	}
	tag, vouched, err := l.tag(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := l.serves(ctx, ref.Repository, tag.Target.Digest, o.Claim); err != nil {
		return nil, err
	}
	a, err := l.manifest(ctx, tag.Target.Digest)
	if err != nil {
		return nil, err
	}
	a.Age, a.Stale = max(0, l.Now().Sub(tag.Confirmed)), !vouched
	return a, nil
}

// passes says why a blob is not given to another member, if it is not.
func (l *Local) passes(ctx context.Context, ref reference.Reference, o upstream.Origin) error {
	if err := l.keeps(ref); err != nil {
		return err
	}
	return l.serves(ctx, ref.Repository, ref.Digest, o.Claim)
}

// keeps says why a blob is not given to any other member, if it is not.
func (l *Local) keeps(ref reference.Reference) error {
	if l.Withheld != nil && l.Withheld(ref) {
		return fmt.Errorf("%s may not be passed on: %w", ref, ErrDenied)
	}
	return nil
}

// Blob answers with a held blob, or with what there is of one that is on its way.
func (l *Local) Blob(ctx context.Context, ref reference.Reference, _ bool, o upstream.Origin) (*Answer, error) {
	a, err := l.whole(ctx, ref, o)
	if err == nil || l.Flights == nil || l.keeps(ref) != nil {
		return a, err
	}
	for _, scope := range l.scopes(ref, o.Claim) {
		if part, err := l.Flights.Part(scope, ref.Digest); err == nil {
			return &Answer{Blob: part, Descriptor: describe(ref, part), Source: part.Source()}, nil
		}
	}
	return l.whole(ctx, ref, o) // It may have arrived since: stores hold a blob before its flight ends.
}

func (l *Local) whole(ctx context.Context, ref reference.Reference, o upstream.Origin) (*Answer, error) {
	if err := l.passes(ctx, ref, o); err != nil {
		return nil, err
	}
	return l.open(ctx, ref.Digest)
}

// Stat answers with a held blob's descriptor.
func (l *Local) Stat(ctx context.Context, ref reference.Reference, o upstream.Origin) (ocispec.Descriptor, string, error) {
	if err := l.passes(ctx, ref, o); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	return l.stat(ctx, ref)
}

func (l *Local) stat(ctx context.Context, ref reference.Reference) (ocispec.Descriptor, string, error) {
	a, err := l.open(ctx, ref.Digest)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	return a.Descriptor, a.Source, a.Blob.Close()
}

// Tags knows no lists: what a node holds is no list of what there is.
func (l *Local) Tags(_ context.Context, repo reference.Repository, _ int, _ string, _ upstream.Origin) (upstream.TagList, error) {
	return upstream.TagList{}, fmt.Errorf("tags of %s: %w", repo, content.ErrNotFound)
}

// Referrers knows no lists either.
func (l *Local) Referrers(_ context.Context, ref reference.Reference, _ string, _ upstream.Origin) (ocispec.Index, error) {
	return ocispec.Index{}, fmt.Errorf("referrers of %s: %w", ref, content.ErrNotFound)
}

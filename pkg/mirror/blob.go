package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob answers a request for a blob by digest. resumed says that the client wants its end and has its beginning: then
// a blob that broke off a moment ago is refused, so that the client gets the rest elsewhere.
func (m *Mirror) Blob(ctx context.Context, ref reference.Reference, resumed bool, origin upstream.Origin) (*Answer, error) {
	return granted(ctx, m, ref, aBlob, origin, func(ctx context.Context, r request) (*Answer, error) {
		return m.blob(ctx, ref, resumed, r)
	})
}

func (m *Mirror) blob(ctx context.Context, ref reference.Reference, resumed bool, r request) (*Answer, error) {
	if a, err := m.open(ctx, r, ref.Digest); err == nil {
		return a, nil
	}
	key := r.scoped("blob " + ref.String())
	if err := m.failed(key); err != nil {
		return nil, err
	}
	if resumed {
		if err := m.failed(broken(ref)); err != nil {
			return nil, err
		}
	}
	a, err := m.arriving(ctx, ref, resumed, r)
	if err != nil {
		m.rememberFor(r, key, err)
		return nil, err
	}
	return a, nil
}

// arriving answers with a blob that comes from elsewhere. The deadline for its first byte begins here.
func (m *Mirror) arriving(ctx context.Context, ref reference.Reference, resumed bool, r request) (*Answer, error) {
	deadline := time.Now().Add(m.cfg.AnswerWithin)
	joining, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	size := m.sizeOf(ref)
	ways, err := m.ways(ref, size, r)
	if err != nil {
		return nil, err
	}
	reader, err := m.cfg.Flights.Join(joining, r.grant.Scope(), content.OwnerOf(ref.Registry), ref.Digest, flight.Hint(size), ways.sources...)
	switch {
	case err == nil:
		return &Answer{Blob: &watched{Arriving: reader, m: m, ref: ref, deadline: deadline}, Descriptor: describe(ref, reader)}, nil
	case errors.Is(err, flight.ErrHeld):
		if a, err := m.open(ctx, r, ref.Digest); err == nil || resumed || ways.through == nil {
			return a, err
		}
		// It is held, but never came from this repository: that has to give it itself.
		return m.through(ctx, ref, ways.through, deadline, err)
	case errors.Is(err, content.ErrNoSpace) && !resumed && ways.through != nil:
		return m.through(ctx, ref, ways.through, deadline, err)
	case joining.Err() != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("no byte of %s within %v: %w", ref, m.cfg.AnswerWithin, err)
	}
	return nil, ways.failed(err)
}

// through answers without a spool, for there is no room for one. What is read lives on the client's own context.
func (m *Mirror) through(ctx context.Context, ref reference.Reference, src *upstreamSource, deadline time.Time, why error) (*Answer, error) {
	m.cfg.Log.V(1).Info("blob passes through", "ref", ref.String(), "reason", why.Error())
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(time.Until(deadline), cancel) // Until the first byte is there.
	passage, err := flight.Through(ctx, ref.Digest, src)
	if err != nil {
		late.Stop()
		cancel()
		return nil, err
	}
	return &Answer{Blob: &passing{Passage: passage, late: late, cancel: cancel, verified: src.Verified}, Descriptor: describe(ref, passage)}, nil
}

// passing is a blob that passes through, and what bounds it.
type passing struct {
	*flight.Passage
	late   *time.Timer
	cancel context.CancelFunc
	// verified is called with the whole.
	verified func()
}

// CopyRange implements content.Blob. With the whole, and not before, it is verified.
func (p *passing) CopyRange(ctx context.Context, to io.Writer, off, n int64) (int64, error) {
	written, err := p.Passage.CopyRange(ctx, to, off, n)
	if err == nil && off == 0 && n == p.Size() {
		p.verified()
	}
	return written, err
}

// Ready implements content.Arriving.
func (p *passing) Ready(ctx context.Context, off int64) error {
	err := p.Passage.Ready(ctx, off)
	p.late.Stop()
	return err
}

// Close implements io.Closer.
func (p *passing) Close() error {
	p.late.Stop()
	defer p.cancel()
	return p.Passage.Close()
}

func describe(ref reference.Reference, b content.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType(), Digest: ref.Digest, Size: b.Size()}
}

// Stat answers a request for a blob's existence and size.
func (m *Mirror) Stat(ctx context.Context, ref reference.Reference, origin upstream.Origin) (ocispec.Descriptor, string, error) {
	type found struct {
		ocispec.Descriptor
		source string
	}
	got, err := granted(ctx, m, ref, aBlob, origin, func(ctx context.Context, r request) (found, error) {
		desc, source, err := m.stat(ctx, ref, r)
		return found{desc, source}, err
	})
	return got.Descriptor, got.source, err
}

func (m *Mirror) stat(ctx context.Context, ref reference.Reference, r request) (ocispec.Descriptor, string, error) {
	if m.allowed(ctx, r, ref.Digest) == nil {
		if desc, source, err := m.local.stat(ctx, ref); err == nil {
			return desc, source, nil
		}
	}
	if desc, source, err := m.statElsewhere(ref, r); err != nil || source != "" {
		return desc, source, err
	}
	key := r.scoped("stat " + ref.String())
	if err := m.failed(key); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
	defer cancel()
	desc, err := share(ctx, m, key, func(ctx context.Context) (ocispec.Descriptor, error) {
		desc, err := m.cfg.Upstream.StatBlob(ctx, ref.Repository, ref.Digest, r.origin)
		if err != nil {
			m.rememberFor(r, key, err)
		}
		return desc, err
	})
	return desc, Upstream, err
}

// broken is the key under which a blob that broke off is remembered: in its repository, for another's registry may give
// the same blob well.
func broken(ref reference.Reference) string { return "broken " + ref.String() }

// watched notes when a blob breaks off.
type watched struct {
	content.Arriving
	m        *Mirror
	ref      reference.Reference
	deadline time.Time // For the first byte.
}

// Ready implements content.Arriving.
func (w *watched) Ready(ctx context.Context, off int64) error {
	waiting, cancel := context.WithDeadline(ctx, w.deadline)
	defer cancel()
	err := w.Arriving.Ready(waiting, off)
	w.note(err)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no byte of %s at %d within %v: %w", w.ref, off, w.m.cfg.AnswerWithin, err)
	}
	return err
}

// CopyRange implements content.Blob.
func (w *watched) CopyRange(ctx context.Context, to io.Writer, off, n int64) (int64, error) {
	written, err := w.Arriving.CopyRange(ctx, to, off, n)
	w.note(err)
	return written, err
}

func (w *watched) note(err error) {
	var broke *flight.Error
	if errors.As(err, &broke) {
		if challenges(err) {
			err = fmt.Errorf("it broke off: %v", err) // Credentials for the rest would come too late.
		}
		w.m.remember(broken(w.ref), err)
	}
}

// Tags answers a request for a page of a repository's tags.
func (m *Mirror) Tags(ctx context.Context, repo reference.Repository, n int, last string, origin upstream.Origin) (upstream.TagList, error) {
	if err := m.asksUpstream(repo); err != nil {
		return upstream.TagList{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
	defer cancel()
	ref := reference.Reference{Repository: repo}
	return granted(ctx, m, ref, aList, origin, func(ctx context.Context, r request) (upstream.TagList, error) {
		return m.cfg.Upstream.Tags(ctx, repo, n, last, r.origin)
	})
}

// Referrers answers a request for the manifests that refer to one, filtered by artifact type if that is not empty.
func (m *Mirror) Referrers(ctx context.Context, ref reference.Reference, artifactType string, origin upstream.Origin) (ocispec.Index, error) {
	if err := m.asksUpstream(ref.Repository); err != nil {
		return ocispec.Index{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.AnswerWithin)
	defer cancel()
	got, err := granted(ctx, m, ref, aList, origin, func(ctx context.Context, r request) (upstream.Referrers, error) {
		return m.cfg.Upstream.Referrers(ctx, ref.Repository, ref.Digest, artifactType, r.origin)
	})
	if err != nil {
		return ocispec.Index{}, err
	}
	index := got.Index
	if artifactType != "" && !got.Filtered {
		index.Manifests = slices.DeleteFunc(slices.Clone(index.Manifests), func(d ocispec.Descriptor) bool {
			return d.ArtifactType != artifactType
		})
	}
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{} // The specification wants a list, not null.
	}
	return index, nil
}

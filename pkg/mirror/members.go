package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	p2p "github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxProviders bounds how many members are tried for one blob.
	maxProviders = 16
	// blameFor is how long a member that sent wrong bytes of a blob is not asked for it.
	blameFor = time.Hour
)

// Finder knows which members hold what.
type Finder interface {
	// Providers gives who says to hold a key, the preferred ones first. Nobody is no error.
	Providers(ctx context.Context, key discovery.Key) ([]discovery.Provider, error)
	// ReportDead tells that a member did not answer.
	ReportDead(id p2p.ID)
}

// Members gets content from the other members. It is safe for concurrent use.
type Members struct {
	finder Finder
	client *peer.Client
	log    logr.Logger
	now    func() time.Time
	blamed *lru.Cache[blame, time.Time]
}

// blame is a member that sent wrong bytes, and of what.
type blame struct {
	id   p2p.ID
	dgst digest.Digest
}

// NewMembers makes it of who knows the members and of a client to ask them.
func NewMembers(finder Finder, client *peer.Client, now func() time.Time, log logr.Logger) (*Members, error) {
	blamed, err := lru.New[blame, time.Time](maxRemembered)
	if err != nil {
		return nil, fmt.Errorf("make memory of blame: %w", err)
	}
	return &Members{finder: finder, client: client, log: log, now: now, blamed: blamed}, nil
}

// providers gives the members to try for content, without those that sent wrong bytes of it.
func (m *Members) providers(ctx context.Context, dgst digest.Digest) ([]discovery.Member, error) {
	found, err := m.finder.Providers(ctx, discovery.DigestKey(dgst))
	if err != nil {
		return nil, err
	}
	var members []discovery.Member
	for _, p := range found {
		if len(p.Member.PeerAPI) > 0 {
			members = append(members, p.Member)
		}
	}
	members = m.unblamed(members, dgst)
	return members[:min(len(members), maxProviders)], nil
}

// unblamed leaves out those that sent wrong bytes of some content.
func (m *Members) unblamed(members []discovery.Member, dgst digest.Digest) []discovery.Member {
	return slices.DeleteFunc(members, func(member discovery.Member) bool {
		at, bad := m.blamed.Get(blame{member.ID, dgst})
		return bad && m.now().Sub(at) < blameFor
	})
}

// blame remembers that a member sent wrong bytes.
func (m *Members) blame(member discovery.Member, ref reference.Reference, err error) {
	m.blamed.Add(blame{member.ID, ref.Digest}, m.now())
	m.log.Info("member sent wrong bytes, and is not asked for them again", "peer", member.ID.String(),
		"address", member.PeerAPI, "ref", ref.String(), "reason", err.Error())
}

// Blame remembers that a member sent wrong bytes of something, so that it is not asked for it for a while.
func (m *Members) Blame(member discovery.Member, ref reference.Reference, err error) {
	m.blame(member, ref, err)
}

// failed takes note of a member that could not give what it said it had.
func (m *Members) failed(member discovery.Member, ref reference.Reference, err error) {
	switch {
	case errors.Is(err, context.Canceled):
		return // Another was faster.
	case errors.Is(err, peer.ErrDead):
		m.finder.ReportDead(member.ID)
	case errors.Is(err, peer.ErrLied):
		m.blame(member, ref, err)
		return
	}
	m.log.Info("member passed over", "peer", member.ID.String(), "address", member.PeerAPI, "ref", ref.String(), "reason", err.Error())
}

// Tag asks up to three members that know a tag, and gives the newest answer. vouched says that it is upstream's word,
// and Confirmed when it was heard; else it is when that member pulled the image.
func (m *Members) Tag(ctx context.Context, ref reference.Reference, claim access.Claim) (newest content.Tag, vouched bool, err error) {
	found, err := m.finder.Providers(ctx, discovery.TagKey(ref.String()))
	if err != nil {
		return content.Tag{}, false, err
	}
	var (
		asked  sync.WaitGroup
		mu     sync.Mutex
		client = m.client.For(claim)
	)
	for _, p := range found[:min(len(found), maxAsked)] {
		if len(p.Member.PeerAPI) == 0 {
			continue
		}
		asked.Go(func() {
			answer, err := client.Tag(ctx, p.Member.PeerAPI, ref)
			if err != nil {
				m.failed(p.Member, ref, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if newest.Target.Digest == "" || answer.Confirmed.After(newest.Confirmed) {
				newest, vouched = content.Tag{Target: answer.Target, Confirmed: answer.Confirmed, Author: p.Member.ID.String()}, answer.Vouched
			}
		})
	}
	asked.Wait() // The client's deadlines end it.
	if newest.Target.Digest == "" {
		return content.Tag{}, false, fmt.Errorf("%s at other members: %w", ref, content.ErrNotFound)
	}
	return newest, vouched, nil
}

// Manifest gets a manifest by digest, verified: from one of some members, or of those that discovery knows to hold it
// if none are named.
func (m *Members) Manifest(
	ctx context.Context, ref reference.Reference, claim access.Claim, from ...discovery.Member,
) (ocispec.Descriptor, []byte, error) {
	members := m.unblamed(from, ref.Digest)
	if len(from) == 0 {
		var err error
		if members, err = m.providers(ctx, ref.Digest); err != nil {
			return ocispec.Descriptor{}, nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	client := m.client.For(claim)
	won, err := race(ctx, members, func(ctx context.Context, member discovery.Member) (fetched, error) {
		desc, body, err := client.Manifest(ctx, member.PeerAPI, ref)
		if err != nil {
			m.failed(member, ref, err)
		}
		return fetched{desc: desc, body: body, source: Peer}, err
	}, nil)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%s at other members: %w", ref, err)
	}
	won.cancel()
	return won.value.desc, won.value.body, nil
}

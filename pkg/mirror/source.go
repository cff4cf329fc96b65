package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	p2p "github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// The kinds of sources that a flight has, as logs and metrics name them.
const (
	// Upstream is a registry.
	Upstream = "upstream"
	// Peer is another member.
	Peer = "peer"
)

// upstreamSource is a repository of an upstream registry, as a flight sees it.
type upstreamSource struct {
	client *upstream.Client
	ref    reference.Reference
	origin upstream.Origin
	// gave is told that the blob came from there, and whether the registry itself gave all of it.
	gave func(ref reference.Reference, c access.Credentials, itself bool)
	// elsewhere notes that some of it came from where the registry redirected to.
	elsewhere atomic.Bool
}

// Verified implements flight.Witness.
func (s *upstreamSource) Verified() { s.gave(s.ref, s.origin.Credentials, !s.elsewhere.Load()) }

// Open implements flight.Source.
func (s *upstreamSource) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	b, err := s.client.Blob(ctx, s.ref.Repository, s.ref.Digest, off, end, s.origin)
	if err != nil {
		return nil, err
	}
	if !b.FromRegistry() {
		s.elsewhere.Store(true)
	}
	return b, nil
}

// Trusted implements flight.Source.
func (s *upstreamSource) Trusted() bool { return true }

// Blame implements flight.Source: what a registry redirected to may be what is wrong.
func (s *upstreamSource) Blame(error) { s.client.Forget(s.ref.Repository, s.ref.Digest) }

// Kind implements flight.Source.
func (s *upstreamSource) Kind() string { return Upstream }

// String implements flight.Source. Each client's credentials are a source of their own: where one's are refused, the
// next one's are tried.
func (s *upstreamSource) String() string {
	if s.origin.Credentials.IsZero() {
		return fmt.Sprintf("upstream %s", s.ref.Repository)
	}
	return fmt.Sprintf("upstream %s for %v", s.ref.Repository, s.origin.Credentials)
}

// source gives the members that hold a blob as one source of a flight: it asks the next one whenever one fails, at
// the byte where that one stopped.
func (m *Members) source(ref reference.Reference, grant access.Grant, saw func(reference.Reference, digest.Digest)) *membersSource {
	return &membersSource{
		members: m, ref: ref, grant: grant, client: m.client.For(grant.Claim()), saw: saw,
		failed: map[p2p.ID]bool{}, used: map[p2p.ID]discovery.Member{},
	}
}

// membersSource is the other members, as a flight sees them.
type membersSource struct {
	members *Members
	ref     reference.Reference
	grant   access.Grant
	client  *peer.Client // Asks with the grant's claim.
	apart   bool         // No swarm helps: it knows of no place but members and upstream.
	saw     func(ref reference.Reference, dgst digest.Digest)

	mu     sync.Mutex
	named  []discovery.Member // By the tracker, to be tried before those that discovery knows.
	failed map[p2p.ID]bool    // Those that could not give what they said they had.
	used   map[p2p.ID]discovery.Member
}

// Kind implements flight.Source.
func (s *membersSource) Kind() string { return Peer }

// String implements flight.Source. Members give a blob in the names of the repositories that they saw it in.
func (s *membersSource) String() string { return fmt.Sprintf("other members, of %s", s.ref.Repository) }

// Verified implements flight.Witness.
func (s *membersSource) Verified() {
	if s.saw != nil {
		s.saw(s.ref, s.ref.Digest)
	}
}

// Reference says what the source is asked for, and whether a swarm may help with it.
func (s *membersSource) Reference() (reference.Reference, bool) { return s.ref, !s.apart }

// Claim is what members are told of the clients that the source is for.
func (s *membersSource) Claim() access.Claim { return s.grant.Claim() }

// Trusted implements flight.Source.
func (s *membersSource) Trusted() bool { return false }

// Blame implements flight.Source.
func (s *membersSource) Blame(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, member := range s.used {
		s.members.blame(member, s.ref, err)
		delete(s.used, id)
	}
}

// Open implements flight.Source.
func (s *membersSource) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	stream := &membersStream{source: s, ctx: ctx, pos: off, end: end}
	if err := stream.reopen(openWithin); err != nil {
		return nil, err
	}
	return stream, nil
}

// From gives the same members, of which one is asked before all others.
func (s *membersSource) From(first discovery.Member) flight.Source { return &holderSource{s, first} }

// holderSource is the other members with one before all others.
type holderSource struct {
	*membersSource
	first discovery.Member
}

// String implements flight.Source.
func (s *holderSource) String() string { return "member " + s.first.ID.String() }

// Open implements flight.Source.
func (s *holderSource) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	stream := &membersStream{source: s.membersSource, ctx: ctx, pos: off, end: end, first: []discovery.Member{s.first}}
	if err := stream.reopen(openWithin); err != nil {
		return nil, err
	}
	return stream, nil
}

// untried gives the members that are still worth asking.
func (s *membersSource) untried(ctx context.Context) ([]discovery.Member, error) {
	s.mu.Lock()
	named := s.worthATry(s.named)
	s.mu.Unlock()
	if len(named) > 0 {
		return named, nil
	}
	found, err := s.members.providers(ctx, s.ref.Digest)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.worthATry(found), nil
}

// worthATry leaves out those that failed before, or sent wrong bytes. The caller holds the lock.
func (s *membersSource) worthATry(found []discovery.Member) []discovery.Member {
	var members []discovery.Member
	for _, member := range s.members.unblamed(found, s.ref.Digest) {
		if !s.failed[member.ID] {
			members = append(members, member)
		}
	}
	return members
}

// use notes a member that bytes have come from.
func (s *membersSource) use(member discovery.Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[member.ID] = member
}

func (s *membersSource) fail(member discovery.Member, err error) {
	if errors.Is(err, peer.ErrBeyond) {
		return // It is we who were told a wrong size.
	}
	s.mu.Lock()
	s.failed[member.ID] = true
	s.mu.Unlock()
	s.members.failed(member, s.ref, err)
}

// membersStream reads from one member after the other. It belongs to one goroutine.
type membersStream struct {
	source *membersSource
	ctx    context.Context
	pos    int64
	end    int64              // Negative for the blob's end.
	first  []discovery.Member // Asked before anybody is looked for.
	now    attempt[*peer.Stream]
	cancel context.CancelFunc
	// counted says that the member is noted as one that bytes have come from.
	counted bool
}

const (
	// openWithin bounds how long all members together may take to begin, however many of them are silent: then it is
	// upstream's turn.
	openWithin = 2500 * time.Millisecond
	// reopenWithin is the same when one of them has already cost its silence.
	reopenWithin = time.Second
)

// reopen starts to read from the fastest of the members that are left, within a time.
func (s *membersStream) reopen(within time.Duration) error {
	if first := s.first; first != nil {
		s.first = nil
		if s.open(within, first) == nil {
			return nil
		}
	}
	return s.open(within, nil)
}

// open is reopen with these members, or else those that say to hold the blob.
func (s *membersStream) open(within time.Duration, members []discovery.Member) (err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer time.AfterFunc(within, cancel).Stop() // For the opening alone: what is opened lives on the same context.
	if members == nil {
		if members, err = s.source.untried(ctx); err != nil {
			cancel()
			return err
		}
	}
	won, err := race(ctx, members, func(ctx context.Context, member discovery.Member) (*peer.Stream, error) {
		in, err := s.source.client.Blob(ctx, member.PeerAPI, s.source.ref, s.pos, s.end)
		if err != nil && ctx.Err() == nil {
			s.source.fail(member, err)
		}
		return in, err
	}, func(late *peer.Stream) { late.Close() })
	if err != nil {
		cancel()
		return fmt.Errorf("%s at other members: %w", s.source.ref, err)
	}
	s.now, s.cancel, s.counted = won, cancel, false
	return nil
}

// Size implements flight.Stream.
func (s *membersStream) Size() int64 { return s.now.value.Size() }

// Distant implements flight.Distant.
func (s *membersStream) Distant() bool { return s.now.member.Zone != s.source.members.client.Zone() }

// Ranged implements flight.Stream.
func (s *membersStream) Ranged() bool { return true }

// Read implements io.Reader. A member that fails is replaced without a word.
func (s *membersStream) Read(p []byte) (int, error) {
	for {
		n, err := s.now.value.Read(p)
		s.pos += int64(n)
		if n > 0 && !s.counted {
			s.counted = true
			s.source.use(s.now.member)
		}
		if err == io.EOF && s.pos < s.last() {
			err = fmt.Errorf("%w: %w", peer.ErrDead, io.ErrUnexpectedEOF)
		}
		if err == nil || err == io.EOF || s.ctx.Err() != nil {
			return n, err
		}
		size := s.Size()
		s.source.fail(s.now.member, err)
		_ = s.Close() // It has failed already.
		if rerr := s.reopen(reopenWithin); rerr != nil {
			return n, fmt.Errorf("%w; before that: %w", rerr, err)
		}
		if s.Size() != size {
			return n, fmt.Errorf("members disagree on the blob's size: %d and %d bytes", size, s.Size())
		}
		if n > 0 {
			return n, nil
		}
	}
}

// last gives where the stream ends.
func (s *membersStream) last() int64 {
	if s.end >= 0 {
		return min(s.end, s.Size())
	}
	return s.Size()
}

// Close implements io.Closer.
func (s *membersStream) Close() error {
	err := s.now.value.Close()
	s.now.cancel()
	s.cancel()
	return err
}

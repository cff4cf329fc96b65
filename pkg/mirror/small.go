package mirror

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm/object"
	"github.com/opencontainers/go-digest"
)

// errOurs says that this member is the one to go upstream.
var errOurs = errors.New("upstream is to be asked by this member")

// small gives where a flight gets a blob of one piece from: other members, then upstream.
func (m *Mirror) small(members *membersSource, registry *upstreamSource, size int64) []flight.Source {
	s := &small{objects: m.objects, dgst: members.ref.Digest, scope: members.grant.Scope(), size: size}
	return []flight.Source{&smallMembers{members, s}, &smallUpstream{registry, s}}
}

// small is a blob of one piece on its way to this node. Its two sources are two, so that the flight knows whom bytes
// came from; what they share is the lease.
type small struct {
	objects *object.Objects
	dgst    digest.Digest
	scope   string
	size    int64

	mu    sync.Mutex
	lease *object.Lease // Nil while there is none.
}

// take gives the lease away, if there is one, to who ends it.
func (s *small) take() *object.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lease
	s.lease = nil
	return l
}

// lead keeps the lease for the next source.
func (s *small) lead(want *object.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		s.lease = want.Lead()
	}
}

// smallMembers is the other members as the source of a small blob.
type smallMembers struct {
	*membersSource
	small *small
}

// Open implements flight.Source. Its error may say that it is this member's turn to go upstream, as the next source
// does.
func (s *smallMembers) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	want := s.small.objects.Content(s.small.dgst, s.small.scope, s.small.size)
	for {
		switch turn, answer := want.Next(ctx); turn {
		case object.Lead:
			s.small.lead(want)
			return nil, errOurs
		case object.Ask:
			s.mu.Lock()
			s.named = s.members.unblamed(answer.Holders, s.small.dgst)
			s.mu.Unlock()
			in, err := s.membersSource.Open(ctx, off, end)
			if err == nil {
				return &told{Stream: in, left: in.Size() - off, end: func(whole bool, _ error) {
					if whole {
						want.Got(s.small.dgst, s.small.size)
					}
				}}, nil
			}
			want.Missed()
		default:
			return s.membersSource.Open(ctx, off, end)
		}
	}
}

// smallUpstream is upstream as the source of a small blob.
type smallUpstream struct {
	*upstreamSource
	small *small
}

// Open implements flight.Source. How the fetch ends is told to the tracker, if it gave the lease.
func (s *smallUpstream) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	in, err := s.upstreamSource.Open(ctx, off, end)
	if err != nil {
		s.ended(false, err)
		return nil, err
	}
	return &told{Stream: in, left: in.Size() - off, end: s.ended}, nil
}

func (s *smallUpstream) ended(whole bool, err error) {
	switch lease := s.small.take(); {
	case lease == nil:
	case whole:
		lease.Got(s.small.dgst, s.small.size)
	default:
		lease.Failed(err)
	}
}

// told is a stream that says how it ended. It belongs to one goroutine.
type told struct {
	flight.Stream
	left int64
	err  error
	end  func(whole bool, err error)
}

// Read implements io.Reader.
func (t *told) Read(p []byte) (int, error) {
	n, err := t.Stream.Read(p)
	t.left -= int64(n)
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (t *told) Close() error {
	err := t.err
	if err == nil {
		err = context.Canceled // Nobody wanted the rest.
	}
	t.end(t.left <= 0, err)
	return t.Stream.Close()
}

package mirror

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/opencontainers/go-digest"
)

// errOurs says that this member is the one to go upstream.
var errOurs = errors.New("upstream is to be asked by this member")

// agrees tells whether the members agree first on who goes upstream for a blob of that size, which is one piece.
func (m *Mirror) agrees(size int64) bool {
	return m.cfg.Tracker != nil && size >= 0 && size < swarm.OnePiece && time.Now().UnixNano() >= m.unkept.Load()
}

// small gives where a flight gets a blob of one piece from: other members, then upstream.
func (m *Mirror) small(members *membersSource, registry *upstreamSource, size int64) []flight.Source {
	s := &small{m: m, dgst: members.ref.Digest, key: swarmKey(members.ref.Digest.String(), members.grant.Scope()), size: size}
	return []flight.Source{&smallMembers{members, s}, &smallUpstream{registry, s}}
}

// small is a blob of one piece on its way to this node.
type small struct {
	m    *Mirror
	dgst digest.Digest
	key  string // As the tracker knows it.
	size int64

	mu    sync.Mutex
	lease *led // Nil while there is none.
}

// take gives the lease away, if there is one, to who ends it.
func (s *small) take() *led {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lease
	s.lease = nil
	return l
}

// smallMembers is the other members as the source of a small blob.
type smallMembers struct {
	*membersSource
	small *small
}

// Open implements flight.Source. Its error may say that it is this member's turn to go upstream, as the next source
// does.
func (s *smallMembers) Open(ctx context.Context, off, end int64) (flight.Stream, error) {
	p := s.small.m.pursueAs(s.small.key, s.small.size)
	for {
		switch what, answer := p.next(ctx); what {
		case lead:
			s.small.mu.Lock()
			defer s.small.mu.Unlock()
			if s.small.lease == nil {
				s.small.lease = p.lead()
			}
			return nil, errOurs
		case ask:
			s.mu.Lock()
			s.named = s.members.unblamed(holders(answer), s.small.dgst)
			s.mu.Unlock()
			in, err := s.membersSource.Open(ctx, off, end)
			if err == nil {
				return &told{Stream: in, left: in.Size() - off, end: s.arrived}, nil
			}
			p.small.Stalled = true
		default:
			return s.membersSource.Open(ctx, off, end)
		}
	}
}

// arrived tells the tracker of a blob that came from members, once this node holds it.
func (s *smallMembers) arrived(whole bool, _ error) {
	if whole {
		s.small.m.spawn(func(ctx context.Context) { s.small.m.hold(ctx, s.small.key, s.small.dgst, s.small.size) })
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
	lease := s.small.take()
	if lease == nil {
		return
	}
	m, key, dgst, size := s.small.m, s.small.key, s.small.dgst, s.small.size
	lease.end(func(ctx context.Context) {
		if whole {
			m.hold(ctx, key, dgst, size)
			return
		}
		m.tell(ctx, key, failed(size, err))
	})
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

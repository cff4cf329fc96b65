package mirror

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/opencontainers/go-digest"
)

// errOurs says that this member is the one to go upstream.
var errOurs = errors.New("upstream is to be asked by this member")

// sources gives where a flight gets a blob from: other members, then upstream. For a blob of one piece, the members
// agree first on who goes upstream.
func (m *Mirror) sources(ref reference.Reference, size int64, registry *upstreamSource) []flight.Source {
	switch {
	case m.cfg.Members == nil:
		return []flight.Source{registry}
	case m.cfg.Coordinator == nil || size < 0 || size >= swarm.OnePiece || time.Now().UnixNano() < m.unkept.Load():
		return []flight.Source{m.cfg.Members.Source(ref), registry}
	}
	s := &small{m: m, dgst: ref.Digest, size: size}
	return []flight.Source{&smallMembers{m.cfg.Members.source(ref), s}, &smallUpstream{registry, s}}
}

// small is a blob of one piece on its way to this node.
type small struct {
	m    *Mirror
	dgst digest.Digest
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
	p := s.small.m.pursue(s.small.dgst, s.small.size)
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

// arrived tells the coordinator of a blob that came from members, once this node holds it.
func (s *smallMembers) arrived(whole bool, _ error) {
	if whole {
		s.small.m.spawn(func(ctx context.Context) { s.small.m.hold(ctx, s.small.dgst, s.small.size) })
	}
}

// smallUpstream is upstream as the source of a small blob.
type smallUpstream struct {
	*upstreamSource
	small *small
}

// Open implements flight.Source. How the fetch ends is told to the coordinator, if it gave the lease.
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
	m, dgst, size := s.small.m, s.small.dgst, s.small.size
	lease.end(func(ctx context.Context) {
		if whole {
			m.hold(ctx, dgst, size)
			return
		}
		m.tell(ctx, dgst.String(), failed(size, err))
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

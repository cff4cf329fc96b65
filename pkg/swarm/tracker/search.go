package tracker

import (
	"context"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
)

// searchEvery is how often at most others are asked who holds something, where this member joined just now.
const searchEvery = 10 * time.Second

// search is what others said of who holds something. Until they are asked again it counts as known here: else who
// announces next would be sent upstream for what a moment ago was to be read from a holder.
type search struct {
	began time.Time
	over  chan struct{} // Closed when found is final.
	found []discovery.Member
	err   error
}

// holders gives who holds what is announced.
func (s *Service) holders(ctx context.Context, key string) ([]discovery.Member, error) {
	found, err := s.cfg.Directory.Holders(ctx, place(key), false)
	for err == nil && len(found) == 0 {
		now := s.cfg.Now()
		s.mu.Lock()
		last, known := s.searched.Get(key)
		if !known || now.Sub(last.began) >= searchEvery {
			mine := &search{began: now, over: make(chan struct{})}
			if known {
				mine.found = last.found // For those who come meanwhile.
			}
			s.searched.Add(key, mine)
			s.mu.Unlock()
			return s.search(ctx, key, mine)
		}
		found = last.found
		s.mu.Unlock()
		if len(found) > 0 {
			return found, nil
		}
		select {
		case <-last.over:
			if last.err == nil {
				return last.found, nil
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return found, err
}

// search asks others who holds something. If that fails, the next who announces it asks.
func (s *Service) search(ctx context.Context, key string, mine *search) ([]discovery.Member, error) {
	found, err := s.cfg.Directory.Holders(ctx, place(key), true)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(mine.over)
	if mine.err = err; err != nil {
		s.searched.Remove(key)
		return nil, err
	}
	mine.found = found
	return found, nil
}

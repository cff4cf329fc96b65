package coordinator

import (
	"fmt"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

// retryTag is how long nobody is sent upstream again for a tag after everybody who tried got a no. It is about a
// moment: whoever asks later gets a try of his own.
const retryTag = 2 * time.Second

// tag is what is known of a tag's meaning. Each time that it has to be looked up anew is a generation, which the tracker
// sees as one blob of one piece: the word of upstream.
type tag struct {
	generation uint64
	value      *TagValue // Heard in this generation.
	refused    time.Time // When it turned out that nobody gets it upstream; zero if not.
}

// name is what the tracker knows this generation of a tag as.
func (t *tag) name(key string) string { return fmt.Sprintf("%s#%d", key, t.generation) }

func (t *tag) renew() { *t = tag{generation: t.generation + 1} }

// tagFor takes in what the sender heard a tag to mean, and gives what is known if that is young enough for it. The caller
// holds the lock.
func (s *Service) tagFor(now time.Time, q *question, waited time.Duration) (*tag, *TagValue) {
	t, ok := s.tags.Get(q.key)
	if !ok {
		t = &tag{generation: uint64(now.UnixMilli())} // It may have been here before.
		s.tags.Add(q.key, t)
	}
	switch {
	case q.value != nil:
		if t.value == nil || q.value.Confirmed.After(t.value.Confirmed) {
			t.value = q.value
		}
	case q.announce.Leaving || q.announce.Complete:
	case t.value != nil && now.Sub(t.value.Confirmed) <= q.within+waited:
		return t, t.value
	case t.value != nil, !t.refused.IsZero() && now.Sub(t.refused) > retryTag:
		t.renew()
	}
	return t, nil
}

// settle notes that a tag can't be had now. The caller holds the lock.
func (s *Service) settle(now time.Time, blob string, q *question, a swarm.Assignment) {
	if !a.NoSource || !isTag(q.key) {
		return
	}
	if t, ok := s.tags.Peek(q.key); ok && t.name(q.key) == blob && t.refused.IsZero() {
		t.refused = now
	}
}

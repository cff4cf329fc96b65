package tracker

import (
	"fmt"
	"time"
)

// tag is what is known of a tag's meaning. Each time that it has to be looked up anew is a generation, which the
// tracker sees as one blob of one piece: the word of upstream.
type tag struct {
	generation uint64
	value      *TagValue // Heard in this generation.
}

// name is what the tracker knows this generation of a tag as.
func (t *tag) name(key string) string { return fmt.Sprintf("%s#%d", key, t.generation) }

// tagFor takes in what the sender heard a tag to mean, and gives what is known if that is young enough for it. The
// caller holds the lock.
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
	case t.value != nil:
		*t = tag{generation: t.generation + 1}
	}
	return t, nil
}

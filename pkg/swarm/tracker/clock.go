package tracker

import (
	"crypto/rand"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// Who asks can count an answer's way into the age of what it says. Who is told something by a question can't: it does
// not know how long that was on its way. So a tracker says in each answer what its clock shows, and who tells it
// something later says when that was by this clock.

// clock is a tracker's, at a time.
type clock struct {
	name  string // Another one each time that a tracker starts.
	began time.Time
	now   time.Time
}

type wireClock struct {
	Name string `json:"name"`
	MS   int64  `json:"ms"` // Since it began. What is said to have been then was not before.
}

func newClock(began time.Time) clock { return clock{name: rand.Text(), began: began} }

func (c clock) at(now time.Time) clock {
	c.now = now
	return c
}

func (c clock) encode() *wireClock {
	return &wireClock{Name: c.name, MS: c.now.Sub(c.began).Milliseconds()}
}

// said gives when something was said, by this clock. Of whom that does not know it, the word may have been on its way
// for as long as announces may take to arrive.
func (c clock) said(ageMS int64, by *wireClock) (time.Time, error) {
	said, err := peer.DecodeAge(ageMS, c.now.Add(-arriveWithin))
	if err != nil || by == nil || by.Name != c.name || c.name == "" {
		return said, err
	}
	since := c.now.Sub(c.began).Milliseconds()
	if by.MS > since || by.MS < since-peer.MaxAge.Milliseconds() {
		return time.Time{}, peer.Violate(peer.BadAge, "said at %d ms of a clock that shows %d", by.MS, since)
	}
	return c.began.Add(time.Duration(by.MS) * time.Millisecond), nil
}

// heardClock is a tracker's clock, as it was in an answer that came at some time.
type heardClock struct {
	wireClock
	at time.Time
}

// when gives a time by that clock, or one before. The answer was on its way for a while, so that the clock showed more
// when it came.
func (h *heardClock) when(t time.Time) *wireClock {
	if h == nil {
		return nil
	}
	ago := h.at.Sub(t)
	ms := ago.Milliseconds()
	if ago > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return &wireClock{Name: h.Name, MS: h.MS - ms}
}

package session

import (
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
)

// Runtimes ask for several layers of an image at once, and unpack them one after the other. If all come at the same
// pace, none is there before all are, and the unpacking begins at the end. So a layer takes no new leases while an
// earlier one of its image still has some to give: then each comes with the whole swarm's speed, and is unpacked while
// the next one comes.

const (
	// crowd is how many neighbours there have to be. A few members alone may need all the connections that the layers
	// of an image make, where upstream sends each no more than so much.
	crowd = 3
	// waitsFor bounds how long a layer waits, because its client hears nothing for as long.
	waitsFor = 10 * time.Second
	// keepsTurn is for how long a layer that gets nothing has others wait.
	keepsTurn = time.Second
	// knocks is for how long one does that the tracker has not answered yet: whether there is a crowd is not known
	// before, and leases that the others had meanwhile would share upstream with its own.
	knocks = 300 * time.Millisecond
)

// turn is a flight's place among those of the same image.
type turn struct {
	began   time.Time
	before  []string // What the trackers know the earlier layers as.
	waiting bool
}

func (x *Sessions) newTurn(ref reference.Reference, scope string) turn {
	t := turn{began: time.Now()}
	if x.cfg.Earlier == nil {
		return t
	}
	for _, d := range x.cfg.Earlier(ref) {
		if d != ref.Digest {
			t.before = append(t.before, tracker.Apart(d.String(), scope))
		}
	}
	return t
}

// goesFirst tells whether any of these is on its way here and still has leases to give, or may have.
func (x *Sessions) goesFirst(now time.Time, keys []string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, key := range keys {
		if p := x.sessions[key]; p != nil && (p.open.Load() || !p.heard.Load() && now.Sub(p.turn.began) < knocks) {
			return true
		}
	}
	return false
}

// opened notes what the tracker says of leases that are left.
func (p *session) opened(now time.Time, answer *tracker.Answer) {
	p.heard.Store(true)
	p.open.Store(answer.Open && len(answer.Neighbours) >= crowd && p.progress.moved(now) < keepsTurn)
}

// wait finds out whether it is another layer's turn. It is no stall then that nothing comes.
func (p *session) wait(now time.Time) {
	t := &p.turn
	waiting := len(t.before) > 0 && now.Sub(t.began) < waitsFor && p.x.goesFirst(now, t.before)
	if waiting {
		p.progress.rest(now)
		if p.download != nil {
			p.download.Wait(now)
		}
	}
	if t.waiting != waiting {
		t.waiting = waiting
		p.report(now)
	}
}

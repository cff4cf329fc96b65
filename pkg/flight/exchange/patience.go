package exchange

import "time"

// Patience says what a flight does when nothing arrives. Its zero value stands for the defaults.
type Patience struct {
	// Stalled is how long nothing may arrive before the coordinator is asked for another way. 2 seconds by default.
	Stalled time.Duration
	// GiveUp is how long nothing may arrive before the flight goes on by itself, unless something is being read that
	// has a deadline of its own. 4.5 seconds by default.
	GiveUp time.Duration
}

func (p Patience) orDefault() Patience {
	if p.Stalled == 0 {
		p.Stalled = 2 * time.Second
	}
	if p.GiveUp == 0 {
		p.GiveUp = 4500 * time.Millisecond
	}
	return p
}

// progress watches how far a flight is. It is pure, and belongs to one goroutine.
type progress struct {
	patience Patience
	arrived  int64
	at       time.Time // When the last byte arrived, or when it began.
	asked    time.Time // When the coordinator was last asked for another way.
}

// mood is what progress says.
type mood int

const (
	moving mood = iota
	stalled
	hopeless
)

// look takes note of how many bytes are there. It says stalled no more than once per patience.
func (p *progress) look(now time.Time, arrived int64) mood {
	if arrived != p.arrived || p.at.IsZero() {
		p.arrived, p.at = arrived, now
	}
	switch idle := now.Sub(p.at); {
	case idle >= p.patience.GiveUp:
		return hopeless
	case idle >= p.patience.Stalled && now.Sub(p.asked) >= p.patience.Stalled:
		p.asked = now
		return stalled
	}
	return moving
}

package session

import "time"

// Patience says what a flight does when nothing arrives. Its zero value stands for the defaults.
type Patience struct {
	// Stalled is how long nothing may arrive before the tracker is asked for another way. 2 seconds by default.
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
	began    time.Time
	best     float64 // The highest mean rate so far, in bytes per second.
	arrived  mark    // All that is here.
	given    mark    // What others gave: all but what leases brought.
	asked    time.Time
}

// mark is a count and when it last grew by as much as counts.
type mark struct {
	n  int64
	at time.Time
}

func (m *mark) look(now time.Time, n, least int64) (idle time.Duration) {
	if n-m.n >= max(1, least) || n < m.n || m.at.IsZero() {
		m.n, m.at = n, now
	}
	return now.Sub(m.at)
}

// crawl is the part of the best rate below which something stands still for all practical purposes.
const crawl = 0.1

// rate takes note of the mean rate so far.
func (p *progress) rate(now time.Time, arrived int64) {
	if p.began.IsZero() {
		p.began = now
	}
	if took := now.Sub(p.began); took >= time.Second/2 {
		p.best = max(p.best, float64(arrived)/took.Seconds())
	}
}

// rest says that nothing was to arrive until now.
func (p *progress) rest(now time.Time) { p.arrived.at, p.given.at = now, now }

// moved is how long ago something arrived, or could have first.
func (p *progress) moved(now time.Time) time.Duration {
	if p.arrived.at.IsZero() {
		return 0
	}
	return now.Sub(p.arrived.at)
}

// least is how many bytes have to come within the time after which the flight counts as stalled.
func (p *progress) least() int64 { return int64(crawl * p.best * p.patience.Stalled.Seconds()) }

// mood is what progress says.
type mood int

const (
	moving mood = iota
	stalled
	hopeless
)

// askEvery is how often the tracker is asked for another way while others give nothing.
const askEvery = 250 * time.Millisecond

// look takes note of how many bytes are there, how many of them leases brought, and whether any lease is being read.
// While one is, that is progress enough, if it does not stand still itself. What it brings does not hide that others
// still give next to nothing: it may have been given to us for just that reason.
func (p *progress) look(now time.Time, arrived, fetched int64, reading bool) mood {
	p.rate(now, arrived)
	all, given := p.arrived.look(now, arrived, 1), p.given.look(now, arrived-fetched, p.least())
	switch {
	case all >= p.patience.GiveUp:
		return hopeless
	case now.Sub(p.asked) < askEvery:
	case all >= p.patience.Stalled, given >= p.patience.Stalled && !reading:
		p.asked = now
		return stalled
	}
	return moving
}

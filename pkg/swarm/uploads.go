package swarm

import (
	"slices"
	"time"
)

// Verdict is what becomes of a request for an upload.
type Verdict uint8

const (
	// Serve: it has a slot now. Done gives it back.
	Serve Verdict = iota
	// Queue: it waits for a slot. Done names it when it has one; Abandon takes it out before.
	Queue
	// Refuse: there is no room. The hint says when to ask again.
	Refuse
)

// UploadsConfig says how much a member uploads at once.
type UploadsConfig struct {
	// Slots is how many uploads run at once. More spread the link thinner, so that each piece is usable later; fewer
	// leave it idle while a slow receiver takes its time. 0 means 8.
	Slots int
	// Queue is how many requests wait for a slot, so that the link is not idle between two. What waits here can't come
	// from anybody else meanwhile: with 8, a swarm of 300 takes longer. 0 means 5.
	Queue int
	// PerMember is how many of the slots and places one member may have, so that none takes them all. 0 means 4.
	PerMember int
}

// Uploads chooses whom to upload to: first come, first served, out of a few slots and a short queue. What is beyond
// them is refused at once with a hint, because a neighbour that knows is better off asking elsewhere. One serves all
// blobs of a member. It is not safe for concurrent use.
type Uploads struct {
	cfg    UploadsConfig
	active []upload
	queue  []ID
	// took is how long an upload holds its slot, smoothed.
	took time.Duration
}

type upload struct {
	member ID
	since  time.Time
}

// NewUploads gives one with nothing to do.
func NewUploads(cfg UploadsConfig) *Uploads {
	for _, field := range []struct {
		value  *int
		normal int
	}{{&cfg.Slots, 8}, {&cfg.Queue, 5}, {&cfg.PerMember, 4}} {
		if *field.value <= 0 {
			*field.value = field.normal
		}
	}
	return &Uploads{cfg: cfg}
}

// Ask is a request of a member for a piece. The hint is set with Refuse.
func (u *Uploads) Ask(now time.Time, member ID) (verdict Verdict, hint time.Duration) {
	has := 0
	for _, up := range u.active {
		if up.member == member {
			has++
		}
	}
	for _, id := range u.queue {
		if id == member {
			has++
		}
	}
	switch {
	case has >= u.cfg.PerMember, len(u.queue) >= u.cfg.Queue:
		return Refuse, u.hint()
	case len(u.active) < u.cfg.Slots && len(u.queue) == 0:
		u.active = append(u.active, upload{member: member, since: now})
		return Serve, 0
	}
	u.queue = append(u.queue, member)
	return Queue, 0
}

// AskFirst is a request for a piece that nobody else can send yet: see Download.First. It is served at once, beside the
// slots, because the whole swarm waits for it; unless there are as many of these as slots already.
func (u *Uploads) AskFirst(now time.Time, member ID) (verdict Verdict, hint time.Duration) {
	if len(u.active) >= 2*u.cfg.Slots {
		return u.Ask(now, member)
	}
	u.active = append(u.active, upload{member: member, since: now})
	return Serve, 0
}

// Done ends one upload to a member, and gives the member of the queue that has its slot now, if any.
func (u *Uploads) Done(now time.Time, member ID) (next ID, ok bool) {
	i := slices.IndexFunc(u.active, func(up upload) bool { return up.member == member })
	if i < 0 {
		return "", false
	}
	took := max(0, now.Sub(u.active[i].since))
	if u.took == 0 {
		u.took = took
	} else {
		u.took += (took - u.took) / 8
	}
	u.active = slices.Delete(u.active, i, i+1)
	if len(u.queue) == 0 || len(u.active) >= u.cfg.Slots {
		return "", false
	}
	next = u.queue[0]
	u.queue = slices.Delete(u.queue, 0, 1)
	u.active = append(u.active, upload{member: next, since: now})
	return next, true
}

// Abandon takes one request of a member out of the queue, the last it made, and says whether there was any.
func (u *Uploads) Abandon(member ID) bool {
	for i := len(u.queue) - 1; i >= 0; i-- {
		if u.queue[i] == member {
			u.queue = slices.Delete(u.queue, i, i+1)
			return true
		}
	}
	return false
}

// hint is about when half of the queue will be through.
func (u *Uploads) hint() time.Duration {
	waves := 1 + len(u.queue)/(2*u.cfg.Slots)
	return min(max(time.Duration(waves)*u.took/2, 5*time.Millisecond), time.Second)
}

package swarm

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Hash is the SHA-256 of a piece, taken by the member that fetched it from outside of the swarm.
type Hash [32]byte

// Have is a piece that a member holds.
type Have struct {
	Piece int
	Hash  Hash
}

// Action is something that a Download wants done: one of the types below.
type Action interface {
	String() string
}

type (
	// Connect opens the stream on which a neighbour tells what it has. The driver answers with Connected or Lost.
	Connect struct{ Neighbour Neighbour }
	// Disconnect closes it, and gives up what is on its way from there.
	Disconnect struct{ Member ID }
	// Request asks a neighbour for a piece. It is to arrive by the deadline; the driver reports TimedOut then.
	// The bytes must have the hash, which is what the neighbour itself told.
	Request struct {
		Member   ID
		Piece    int
		Hash     Hash
		Deadline time.Time
	}
	// Cancel gives up a request.
	Cancel struct {
		Member ID
		Piece  int
	}
	// Fetch reads a lease's range from where it says, in order, leaving out the pieces that are here already.
	Fetch struct{ Lease Lease }
	// Release stops reading a lease's range, or the part of it that is no longer ours: the driver compares the bounds.
	Release struct{ Lease Lease }
	// Tell tells a neighbour that follows us of pieces that we have.
	Tell struct {
		Member ID
		Haves  []Have
	}
	// Report announces to the coordinator now.
	Report struct{}
	// Blame notes that a member sent bytes that are not what their hash says.
	Blame struct {
		Member ID
		Piece  int
	}
)

// DownloadConfig is what a Download needs.
type DownloadConfig struct {
	Self   ID
	Zone   string
	Layout Layout
	Rand   *rand.Rand
}

// Download is one member's view of one blob that it is getting: the picker, and what it tells its neighbours. Its
// methods take what has happened and give what to do about it. It is not safe for concurrent use.
type Download struct{}

// NewDownload gives one that has nothing and knows nobody.
func NewDownload(cfg DownloadConfig) *Download { return &Download{} }

func (d *Download) Assigned(now time.Time, a Assignment) []Action         { return nil }
func (d *Download) Connected(now time.Time, member ID) []Action           { return nil }
func (d *Download) Followed(now time.Time, follower Neighbour) []Action   { return nil }
func (d *Download) Unfollowed(now time.Time, member ID) []Action          { return nil }
func (d *Download) Lost(now time.Time, member ID) []Action                { return nil }
func (d *Download) Heard(now time.Time, member ID, haves []Have) []Action { return nil }
func (d *Download) HeardAll(now time.Time, member ID) []Action            { return nil }
func (d *Download) Fetched(now time.Time, have Have) []Action             { return nil }
func (d *Download) Arrived(now time.Time, member ID, piece int) []Action  { return nil }
func (d *Download) Refused(now time.Time, member ID, piece int, retry time.Duration) []Action {
	return nil
}
func (d *Download) TimedOut(now time.Time, member ID, piece int) []Action { return nil }
func (d *Download) Wrong(now time.Time, member ID, piece int) []Action    { return nil }
func (d *Download) Reading(off int64)                                     {}
func (d *Download) Tick(now time.Time) []Action                           { return nil }
func (d *Download) Have() Pieces                                          { return Pieces{} }
func (d *Download) Complete() bool                                        { return false }
func (d *Download) Next() time.Time                                       { return time.Time{} }

func (a Connect) String() string    { return "connect " + string(a.Neighbour.Member) }
func (a Disconnect) String() string { return "disconnect " + string(a.Member) }
func (a Request) String() string    { return fmt.Sprintf("request %d of %s", a.Piece, a.Member) }
func (a Cancel) String() string     { return fmt.Sprintf("cancel %d of %s", a.Piece, a.Member) }
func (a Fetch) String() string      { return "fetch " + a.Lease.String() }
func (a Release) String() string    { return "release " + a.Lease.String() }
func (a Report) String() string     { return "report" }
func (a Blame) String() string      { return fmt.Sprintf("blame %s for %d", a.Member, a.Piece) }

func (a Tell) String() string {
	pieces := make([]int, len(a.Haves))
	for i, have := range a.Haves {
		pieces[i] = have.Piece
	}
	return fmt.Sprintf("tell %s of %v", a.Member, pieces)
}

// String gives the range and where it comes from.
func (l Lease) String() string {
	from := "upstream"
	if l.From != "" {
		from = string(l.From)
	}
	return fmt.Sprintf("%d-%d from %s", l.Start, l.End, from)
}

package swarm

import (
	"fmt"
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
	// Fetch reads a range that is newly ours from where it says, in order, leaving out the pieces that are here already.
	// It may continue a range that is being read.
	Fetch struct{ Lease Lease }
	// Release is a range that is no longer ours: all of what Fetch gave, or a part. What is being read ends at its start.
	Release struct{ Lease Lease }
	// Tell tells a neighbour that follows us of pieces that we have. Haves may be shared: it is not to be changed.
	Tell struct {
		Member ID
		Haves  []Have
	}
	// Report announces to the tracker now.
	Report struct{}
	// Blame notes that a member sent bytes that are not what their hash says.
	Blame struct {
		Member ID
		Piece  int
	}
)

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

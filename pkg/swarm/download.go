package swarm

import (
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
	Request struct {
		Member   ID
		Piece    int
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
// methods take what has happened and give what to do about it. (Signatures that the driver relies on:
//
//	NewDownload(DownloadConfig) *Download
//	Assigned(now, Assignment) []Action          an answer of the coordinator
//	Connected(now, ID) []Action                  we hear from that neighbour now
//	Followed(now, Neighbour) []Action            that member listens to us now; it need not be among our neighbours yet
//	Unfollowed(now, ID) []Action
//	Lost(now, ID) []Action                       its stream ended, or it can't be reached
//	Heard(now, ID, []Have) []Action              it has these pieces
//	HeardAll(now, ID) []Action                   it has the whole blob and will say no more
//	Fetched(now, Have) []Action                  a piece is complete from a lease
//	Arrived(now, ID, piece) []Action             a requested piece is here, and right
//	Refused(now, ID, piece, retry Duration) []Action   the neighbour is busy, or does not have it any more
//	TimedOut(now, ID, piece) []Action
//	Wrong(now, ID, piece) []Action               what came is not what its hash says
//	Reading(off int64)                           the slowest reader that waits, waits for this byte
//	Tick(now) []Action                           at least every 100 ms
//	Have() Pieces, Complete() bool, Next() time.Time (when Tick is due)
type Download struct{}

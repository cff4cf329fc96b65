// Package swarm decides how one blob spreads over the members of a cluster, so that upstream sends it about once and
// every member has it about as soon as its link allows.
//
// It owns the pieces of a blob, what its tracker knows of it and says to whom (Tracker), the download of one member
// (what to ask of whom next, whom to tell what), and the choice of whom to upload to. All of it is pure: events in,
// actions out. There is no I/O, no goroutine, no lock and no clock here; the time and the source of randomness are
// passed in, and the same code runs in the daemon and in the simulator. Who is a member, what bytes are right and how
// they travel is for others.
package swarm

import "time"

// ID names a member. It is opaque here.
type ID string

// Upstream is what a member knows of fetching a blob from its upstream registry.
type Upstream uint8

const (
	// Able is a member that may be sent upstream: nothing has gone wrong so far.
	Able Upstream = iota
	// Busy is a member to which upstream said that it sends too many requests (429): fewer leases at once.
	Busy
	// Failing is a member that upstream failed for a reason that may pass.
	Failing
	// Refused is a member that got a final no: no credentials, or not found.
	Refused
	// Never is a member that can't go upstream for this blob at all.
	Never
)

// Announce is what a member that wants a blob, or has just got it, says to the blob's tracker: at once, then about
// every second, and when something changed that matters (a lease done, upstream's answer, the end).
type Announce struct {
	Member ID
	Zone   string
	// Size of the blob in bytes; negative while unknown.
	Size int64
	// Have is the pieces that the member holds. The zero value is none.
	Have Pieces
	// Complete says that it holds all of them, verified against the blob's digest. Have is not looked at then.
	Complete bool
	// Reading is what it reads at the moment, of the leases that it was given. A tracker that has not given them to it,
	// because it has just taken over, takes them over too.
	Reading []Lease
	// Partners is how many members it exchanges pieces with that have not got all of them either. A tracker that knows
	// fewer has just taken over, or stands in, and gives nothing new before it has heard what the others have and read.
	Partners int
	// Fetched counts the bytes that have come from leases so far, so that progress shows within a large piece too. It
	// may be left zero; then only whole pieces count as progress.
	Fetched int64
	// Upstream is what it knows of going upstream.
	Upstream Upstream
	// Sequential says that upstream sends the blob only from its start: one lease, of the whole.
	Sequential bool
	// Stalled says that no byte has come from anywhere for a while: it should be given another way.
	Stalled bool
	// Waiting says that it gets another blob first, which is Open, and wants no new leases on this one until then.
	Waiting bool
	// Leaving says that it wants the blob no more and holds nothing that others could use. Its leases return.
	Leaving bool
}

// Assignment is the tracker's answer.
type Assignment struct {
	// Size is the blob's size: what the member said, or else what others said; negative while unknown.
	Size int64
	// Holders are members that hold all of the blob, the preferred ones (same zone, less used) first. At most 16.
	Holders []ID
	// Neighbours are members that are getting it too: whom to exchange pieces with. At most 16, of the same zone first,
	// and at least 3 of other zones where there are any.
	Neighbours []Neighbour
	// Leases are all byte ranges that this member, and for now nobody else, is to fetch, in the order in which to fetch
	// them. One that it was given before and that is not among them is no longer its own.
	Leases []Lease
	// NoSource says that nobody has the blob and every member that tried upstream got a no: there is nothing to wait for.
	NoSource bool
	// Open says that there is something of the blob that nobody has and nobody fetches yet.
	Open bool
	// Wait says that there is nothing to do for this member now but somebody else is getting it: ask again, soon.
	Wait bool
	// Again is when to announce the next time if nothing changes before.
	Again time.Duration
}

// Neighbour is a member to exchange pieces with.
type Neighbour struct {
	Member ID
	Zone   string
}

// Lease is the right and the duty to fetch a range of a blob from where it comes into the swarm.
type Lease struct {
	// Start and End bound the bytes [Start, End). End is negative for the blob's end while the size is unknown.
	Start, End int64
	// From is the complete holder to fetch from: leases spread the load of a single first holder over its link just as
	// they do for upstream. Empty is upstream.
	From ID
}

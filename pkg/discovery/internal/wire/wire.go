// Package wire owns what members say to each other: the messages of the discovery protocol, their bounds and their
// encoding.
//
// A message travels as four bytes of length, highest first, and a body in the wire format of protocol buffers, which
// skips fields that it does not know; so later versions may add to it. Every message is bounded in bytes, and each
// list in it by number, before anything is kept. What a message leads to is for others.
//
// The encoding is by hand for that reason. Generated code reads a whole message before anybody counts: 512 KiB of empty
// members become 48 MB. With a walk before it that counts, and what turns its types into ours and back, it is not
// shorter, and takes four times as long for a question and twice as long for its answer.
package wire

import (
	_ "crypto/sha512" // digest.Validate refuses algorithms that are not linked in.
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// Bounds of messages.
const (
	// MaxMessage is the largest message in bytes. The largest batch of tags stays well below it.
	MaxMessage = 512 << 10
	// MaxBatch is how many keys one message may announce and withdraw.
	MaxBatch = 1024
	// MaxMembers is how many members one message may carry.
	MaxMembers = 64
	// MaxProviders is how many providers one answer may carry.
	MaxProviders = 32
	// MaxExclude is how many members a request may exclude.
	MaxExclude = 16

	maxAddrs   = 8
	maxHost    = 262 // A DNS name, a colon and a port.
	maxZone    = 63  // As of labels in Kubernetes.
	maxID      = 64
	maxDigest  = 160
	maxAddress = 18 // IPv6 and a port.
)

// Member is what a member says of itself.
type Member struct {
	// ID is the member's identity, proven by the handshake when it is the member that speaks.
	ID peer.ID
	// Addrs is where its DHT listens.
	Addrs []netip.AddrPort
	// PeerAPI is where its peer API is reached, as host:port, the preferred one first.
	PeerAPI []string
	// Zone is where it runs; empty when it does not know.
	Zone string
	// Epoch grows with every start of the member. What it said in an earlier life no longer holds.
	Epoch uint64
}

// Equal compares all that members say of themselves.
func (m Member) Equal(o Member) bool {
	return m.ID == o.ID && m.Zone == o.Zone && m.Epoch == o.Epoch &&
		slices.Equal(m.Addrs, o.Addrs) && slices.Equal(m.PeerAPI, o.PeerAPI)
}

// Entry is one thing that a member holds.
type Entry struct {
	Key Key
	// Digest is what a tag means, as far as the member knows; empty for content, which its key names already.
	Digest digest.Digest
	// Confirmed is when the registry last said so; zero for content.
	Confirmed time.Time
}

// Provider is one answer to who holds something.
type Provider struct {
	Member    Member
	Digest    digest.Digest
	Confirmed time.Time
}

// Request is what one member asks of another. Exactly one field is set.
type Request struct {
	Hello   *Hello
	Store   *Store
	Find    *Find
	Goodbye *Goodbye
}

// Hello opens an acquaintance: both sides say who they are, and the callee names members close to the caller.
type Hello struct{ Self Member }

// Store announces and withdraws. The records are the caller's own, whoever it says it is.
type Store struct {
	Self   Member
	Add    []Entry
	Remove []Key
}

// Find asks who holds something.
type Find struct {
	Key Key
	// Exclude names members that the caller found dead; it does not want to hear of them.
	Exclude []peer.ID
}

// Goodbye says that the caller goes away.
type Goodbye struct{ Epoch uint64 }

// Response is the answer to any request.
type Response struct {
	// Self answers a hello.
	Self *Member
	// Members are live members that the caller should know: those closer to the key than the callee, or those close
	// to what was announced.
	Members []Member
	// Providers hold the key.
	Providers []Provider
	// Fresh says that the callee joined just now and may not have heard of everything yet.
	Fresh bool
	// Refused counts announced entries that were not kept, for lack of room.
	Refused int
}

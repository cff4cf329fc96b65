// Package tracker lets members announce what they want or have to its tracker, the member that is closest to it, and
// be told what to do next.
//
// It owns both ends of the announce: the service that a blob's tracker runs, with its long polls, redirects and
// what tags were heard to mean a moment ago, and the client that finds the tracker, tries the next-closest member
// when it is silent, and remembers where the members live that it was told of. What to tell whom is decided in package
// swarm; how bytes travel is for package flight and the peer API.
package tracker

import (
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Path is where the service answers on the peer API.
const Path = "/kioo/v1/announce"

// Answer is what the tracker says to an announce.
type Answer struct {
	swarm.Assignment
	// By is who answered.
	By swarm.ID
	// Members are those that the assignment names, and how they are reached.
	Members map[swarm.ID]discovery.Member
	// Value is what a tag means, where somebody has heard it a moment ago. Nil for everything else.
	Value *TagValue

	clock wireClock // Of who answered.
}

// TagValue is what a tag was heard to mean.
type TagValue struct {
	Target ocispec.Descriptor
	// Confirmed is when a registry said so, by this member's clock.
	Confirmed time.Time
}

// ID gives the name of a member in package swarm: its peer ID as text.
func ID(id peer.ID) swarm.ID { return swarm.ID(id.String()) }

package tracker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	kioo "github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of messages. The largest announce has a key of two names and a bit for each piece, the largest answer 32
// members.
const (
	maxRequest  = 32 << 10
	maxResponse = 256 << 10
	maxKey      = 1024
	maxAvoid    = 8
	maxNamed    = 64
	maxLeases   = 64
	maxReading  = 16
	maxScope    = 64
	maxID       = 128
	// maxWait bounds how long an announce may wait for something to do. It is well below what HTTP clients and
	// connection trackers take for a dead connection.
	maxWait = time.Second
	maxAge  = 24 * time.Hour
)

// errMalformed says that a message breaks the protocol.
var errMalformed = errors.New("malformed message")

// question is an announce and what belongs to it.
type question struct {
	key  string
	from discovery.Member
	// avoid names members that the sender found silent: it does not want to be sent to them.
	avoid []peer.ID
	// final says that the sender was redirected often enough.
	final bool
	// wait is how long the sender would wait for something to do.
	wait time.Duration
	// renew is within what time the sender, if it has a lease, announces again; if it does not, it died. Zero leaves
	// that to the tracker.
	renew    time.Duration
	announce swarm.Announce
	// value is what the sender heard a tag to mean, if it did.
	value *TagValue
	// within is how long ago a tag's meaning may have been heard so that the sender believes it.
	within time.Duration
}

// Members and announces as they travel. Fields that a later version adds are passed over, so that a fleet can be
// upgraded node by node; what is known is checked before anything is done with it.
type (
	wireMember struct {
		ID      string   `json:"id"`
		PeerAPI []string `json:"peerAPI"`
		Zone    string   `json:"zone,omitempty"`
	}
	wireTag struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
		AgeMS     int64  `json:"ageMs"` // An age, because members' clocks differ.
		// Clock is when that was by the clock of who is told.
		Clock *wireClock `json:"clock,omitempty"`
	}
	wireRequest struct {
		Key        string     `json:"key"`
		From       wireMember `json:"from"`
		Avoid      []string   `json:"avoid,omitempty"`
		Final      bool       `json:"final,omitempty"`
		WaitMS     int64      `json:"waitMs,omitempty"`
		RenewMS    int64      `json:"renewMs,omitempty"`
		Size       int64      `json:"size"`
		Have       []byte     `json:"have,omitempty"`
		Complete   bool       `json:"complete,omitempty"`
		Reading    wireLeases `json:"reading,omitempty"`
		Partners   int        `json:"partners,omitempty"`
		Fetched    int64      `json:"fetched,omitempty"`
		Upstream   uint8      `json:"upstream,omitempty"`
		Sequential bool       `json:"sequential,omitempty"`
		Stalled    bool       `json:"stalled,omitempty"`
		Waiting    bool       `json:"waiting,omitempty"`
		Leaving    bool       `json:"leaving,omitempty"`
		Tag        *wireTag   `json:"tag,omitempty"`
		WithinMS   int64      `json:"withinMs,omitempty"`
	}
	wireLease struct {
		Start int64  `json:"start"`
		End   int64  `json:"end"`
		From  string `json:"from,omitempty"`
	}
	wireLeases   []wireLease
	wireResponse struct {
		// Closer answers with 421: ask these instead. Nothing else is set then.
		Closer     []wireMember `json:"closer,omitempty"`
		Size       int64        `json:"size"`
		Members    []wireMember `json:"members,omitempty"` // All that are named below.
		Holders    []string     `json:"holders,omitempty"`
		Neighbours []string     `json:"neighbours,omitempty"`
		Leases     wireLeases   `json:"leases,omitempty"`
		NoSource   bool         `json:"noSource,omitempty"`
		Open       bool         `json:"open,omitempty"`
		Wait       bool         `json:"wait,omitempty"`
		AgainMS    int64        `json:"againMs,omitempty"`
		Tag        *wireTag     `json:"tag,omitempty"`
		Clock      *wireClock   `json:"clock,omitempty"`
	}
)

// decodeStrictly reads one JSON value and nothing after it.
func decodeStrictly(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(into); err != nil {
		return bad(kioo.BadMessage, "%v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return bad(kioo.BadMessage, "more than one value")
	}
	return nil
}

func encodeMember(m discovery.Member) wireMember {
	return wireMember{ID: m.ID.String(), PeerAPI: m.PeerAPI, Zone: m.Zone}
}

func (w wireMember) decode() (discovery.Member, error) {
	id, err := peer.Decode(w.ID)
	if err != nil {
		return discovery.Member{}, bad(kioo.BadMember, "identity %.80q: %v", w.ID, err)
	}
	m := discovery.Member{ID: id, PeerAPI: w.PeerAPI, Zone: w.Zone}
	if err := m.Validate(); err != nil {
		return discovery.Member{}, bad(kioo.BadMember, "member %s: %v", id, err)
	}
	if len(m.PeerAPI) == 0 {
		return discovery.Member{}, bad(kioo.BadMember, "member %s without an address", id)
	}
	return m, nil
}

func encodeLeases(leases []swarm.Lease) (out wireLeases) {
	for _, l := range leases {
		out = append(out, wireLease{Start: l.Start, End: l.End, From: string(l.From)})
	}
	return out
}

func (w wireLeases) decode() (out []swarm.Lease, err error) {
	for _, l := range w {
		if len(l.From) > maxID {
			return nil, bad(kioo.BadMember, "a holder's name of %d bytes", len(l.From))
		}
		out = append(out, swarm.Lease{Start: l.Start, End: l.End, From: swarm.ID(l.From)})
	}
	return out, nil
}

func encodeTag(v *TagValue, now time.Time) *wireTag {
	if v == nil {
		return nil
	}
	return &wireTag{
		MediaType: v.Target.MediaType, Digest: v.Target.Digest.String(), Size: v.Target.Size,
		AgeMS: kioo.EncodeAge(now, v.Confirmed),
	}
}

// decode reads what a tag means, with who tells when that was said.
func (w *wireTag) decode(said func(ageMS int64, by *wireClock) (time.Time, error)) (*TagValue, error) {
	if w == nil {
		return nil, nil
	}
	dgst, err := reference.ParseDigest(w.Digest)
	if err != nil {
		return nil, bad(kioo.BadDigest, "tag: %v", err)
	}
	v := &TagValue{Target: ocispec.Descriptor{MediaType: w.MediaType, Digest: dgst, Size: w.Size}}
	if v.Confirmed, err = said(w.AgeMS, w.Clock); err != nil {
		return nil, fmt.Errorf("%w: tag: %w", errMalformed, err)
	}
	return v, checkTag(v)
}

package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ErrMalformed says that a message breaks the protocol. Whoever sent it is no member, or is one that was taken over or
// fails: the conversation ends.
var ErrMalformed = errors.New("malformed message")

// Reason says in a word what of a message is not in its domain.
type Reason string

// The reasons. They are labels of a metric.
const (
	ReasonFrame    Reason = "frame"    // It can't be read.
	ReasonSize     Reason = "size"     // It is too large.
	ReasonCount    Reason = "count"    // A list is too long, or a number too high.
	ReasonIdentity Reason = "identity" // It speaks of nobody, or in another member's name.
	ReasonAddress  Reason = "address"  // An address can't be dialled.
	ReasonZone     Reason = "zone"     // A zone can't be one.
	ReasonHash     Reason = "hash"     // A key or a digest is none.
	ReasonAge      Reason = "age"      // A time can't be so.
)

const (
	// maxAhead is how far ahead of ours another member's clock may be. Certificates allow for the same.
	maxAhead = time.Hour
	// maxStartAhead is that for the moment of its start, which lasts: a node may get the time after it started.
	maxStartAhead = 24 * time.Hour
)

// refusal is an error that matches ErrMalformed.
type refusal struct {
	reason Reason
	text   string
}

// Error implements error.
func (r *refusal) Error() string { return r.text + ": " + ErrMalformed.Error() }

// Is makes it match ErrMalformed.
func (r *refusal) Is(target error) bool { return target == ErrMalformed }

// Refuse makes an error that ends a conversation.
func Refuse(reason Reason, format string, args ...any) error {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// ReasonOf gives why a message was refused, and whether it was.
func ReasonOf(err error) (Reason, bool) {
	var r *refusal
	if !errors.As(err, &r) {
		return "", false
	}
	return r.reason, true
}

// Validate says what is wrong with what a member says of itself. The port of an address may be open still.
func (m Member) Validate() error {
	switch {
	case len(m.ID) == 0 || len(m.ID) > maxID:
		return Refuse(ReasonIdentity, "identity of %d bytes", len(m.ID))
	case len(m.Addrs) > maxAddrs || len(m.PeerAPI) > maxAddrs:
		return Refuse(ReasonCount, "more than %d addresses", maxAddrs)
	case len(m.Zone) > maxZone || strings.Trim(m.Zone, letters+"._-") != "":
		return Refuse(ReasonZone, "zone %.80q", m.Zone)
	}
	for _, a := range m.Addrs {
		if !reachable(a.Addr()) {
			return Refuse(ReasonAddress, "address %s can't be dialled", a)
		}
	}
	for _, a := range m.PeerAPI {
		if err := checkHostPort(a); err != nil {
			return err
		}
	}
	return nil
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// reachable says whether an address is one that others may dial: of one machine, in one form, for everybody.
func reachable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && a.Zone() == "" && !a.Is4In6() && !a.IsMulticast() &&
		!(a.Is6() && a.IsLinkLocalUnicast()) && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || len(address) > maxHost {
		return Refuse(ReasonAddress, "peer API address %.80q is no host and port", address)
	}
	if ip, err := netip.ParseAddr(host); err == nil && !reachable(ip) || err != nil && strings.Trim(host, letters+"._-") != "" {
		return Refuse(ReasonAddress, "peer API address %.80q can't be dialled", address)
	}
	return nil
}

// started says what is wrong with when a member says that it started.
func started(m *Member, now time.Time) error {
	if m.Epoch > uint64(max(0, now.Add(maxStartAhead).UnixMilli())) {
		return Refuse(ReasonAge, "start at %d ms, which is to come", m.Epoch)
	}
	return nil
}

// confirmed says what is wrong with when a registry is said to have said something. A clock that is ahead is taken to
// be ours: what is new is never newer than now.
func confirmed(t *time.Time, now time.Time) error {
	switch {
	case t.IsZero():
	case !t.After(time.Unix(0, 0)) || t.After(now.Add(maxAhead)):
		return Refuse(ReasonAge, "word of a registry at %v", t.UTC())
	case t.After(now):
		*t = now
	}
	return nil
}

// check looks at what depends on the time.
func (r *Request) check(now time.Time) error {
	switch {
	case r.Hello != nil:
		return started(&r.Hello.Self, now)
	case r.Store != nil:
		for i := range r.Store.Add {
			if err := confirmed(&r.Store.Add[i].Confirmed, now); err != nil {
				return err
			}
		}
		return started(&r.Store.Self, now)
	}
	return nil
}

// check looks at what depends on the time. What it says of third members is hearsay, which may have come by several
// clocks: what can't be so is left out.
func (r *Response) check(now time.Time) error {
	if r.Self != nil {
		if err := started(r.Self, now); err != nil {
			return err
		}
	}
	members, providers := r.Members[:0], r.Providers[:0]
	for _, m := range r.Members {
		if started(&m, now) == nil {
			members = append(members, m)
		}
	}
	for _, p := range r.Providers {
		if err := confirmed(&p.Confirmed, now); err != nil {
			return err
		}
		if started(&p.Member, now) == nil {
			providers = append(providers, p)
		}
	}
	r.Members, r.Providers = members, providers
	return nil
}

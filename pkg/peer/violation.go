package peer

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// ErrLied says that a member said what no member says: a value outside of its domain, or one that contradicts another
// of its own. What it says of the same blob is not listened to any more.
var ErrLied = errors.New("member breaks the protocol")

// Kind is what a violation was about.
type Kind string

// The kinds of violations. There are no others, because they are the values of a metric's label.
const (
	BadMessage Kind = "message" // It can't be read.
	BadSize    Kind = "size"
	BadRange   Kind = "range" // Bytes or leases outside of the blob, or not those that were asked for.
	BadPiece   Kind = "piece" // One that the blob does not have, or that was told before.
	BadCount   Kind = "count" // More than there can be.
	BadAge     Kind = "age"   // Ages, and other times.
	BadType    Kind = "type"
	BadDigest  Kind = "digest"
	BadMember  Kind = "member" // Names, addresses and zones, or somebody who was not introduced.
	BadBytes   Kind = "bytes"  // They are not what their hash or digest says.
)

var kinds = []Kind{BadMessage, BadSize, BadRange, BadPiece, BadCount, BadAge, BadType, BadDigest, BadMember, BadBytes}

// Violation is what a member said that it can't have meant. It matches ErrLied.
type Violation struct {
	Kind Kind
	// What is what it said.
	What string
}

// Violate makes a violation.
func Violate(kind Kind, format string, args ...any) *Violation {
	return &Violation{Kind: kind, What: fmt.Sprintf(format, args...)}
}

func (v *Violation) Error() string { return fmt.Sprintf("%v: %s: %s", ErrLied, v.Kind, v.What) }

// Unwrap gives ErrLied.
func (v *Violation) Unwrap() error { return ErrLied }

const (
	// repeatAfter is for how long the same of the same member is not logged again.
	repeatAfter = time.Hour
	// maxRepeats is how much of one address is logged in that time, and maxSources of how many addresses that is known:
	// whoever says much can't keep others from being named.
	maxRepeats = 16
	maxSources = 1024
	// maxWhat bounds what is logged of a name.
	maxWhat = 128
)

// Violations counts what members say that they can't mean, and logs it once. It is safe for concurrent use; nil notes
// nothing.
type Violations struct {
	log     logr.Logger
	now     func() time.Time
	counted *prometheus.CounterVec

	mu     sync.Mutex
	logged map[string]map[offence]time.Time // By host.
}

// offence is what is logged once.
type offence struct {
	member, about string
	kind          Kind
}

// NewViolations makes a list without violations.
func NewViolations(log logr.Logger, reg prometheus.Registerer) *Violations {
	v := &Violations{log: log, now: time.Now, logged: map[string]map[offence]time.Time{}}
	v.counted = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_peer_violations_total",
		Help: "Values outside of their domain that other members sent, by what they were: message, size, range, piece, count, age, type, digest, member or bytes. The log names the member.",
	}, []string{"kind"})
	for _, kind := range kinds {
		v.counted.WithLabelValues(string(kind))
	}
	return v
}

// Note counts the violation that an error tells of, if it does, and logs it with the member's name and address, and
// what the two were talking about. It says whether there is one.
func (v *Violations) Note(member, address, about string, err error) bool {
	var lie *Violation
	if !errors.As(err, &lie) {
		return false
	}
	if v == nil {
		return true
	}
	v.counted.WithLabelValues(string(lie.Kind)).Inc()
	if v.first(address, offence{member, about, lie.Kind}) {
		v.log.Info("member breaks the protocol", "peer", clip(member), "address", clip(address), "about", clip(about),
			"kind", string(lie.Kind), "reason", err.Error())
	}
	return true
}

// first tells whether something was not logged a while ago.
func (v *Violations) first(address string, o offence) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	mine := v.logged[host]
	maps.DeleteFunc(mine, func(_ offence, at time.Time) bool { return now.Sub(at) >= repeatAfter })
	if _, again := mine[o]; again || len(mine) >= maxRepeats {
		return false
	}
	if mine == nil {
		for other := range v.logged { // Any will do: at worst it is logged again.
			if len(v.logged) < maxSources {
				break
			}
			delete(v.logged, other)
		}
		mine = map[offence]time.Time{}
		v.logged[host] = mine
	}
	mine[o] = now
	return true
}

func clip(s string) string { return s[:min(len(s), maxWhat)] }

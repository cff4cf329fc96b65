package wire

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"math/bits"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Key names something that members may hold: the sha256 of a typed string, so that a digest and a tag can't be taken
// for one another.
type Key [sha256.Size]byte

// KeyOf makes a key of a name of that kind.
func KeyOf(kind, name string) Key { return sha256.Sum256([]byte(kind + "\x00" + name)) }

// String gives the key in hexadecimal, short enough for a log.
func (k Key) String() string { return hex.EncodeToString(k[:8]) }

// Place is a point in the key space of the DHT, where distance is XOR.
type Place [sha256.Size]byte

// Place is where the key lies. Kademlia hashes whatever it is asked for, so that both agree who is closest.
func (k Key) Place() Place { return sha256.Sum256(k[:]) }

// PlaceOf is where a member lies.
func PlaceOf(id peer.ID) Place { return sha256.Sum256([]byte(id)) }

// Compare orders places as numbers.
func (p *Place) Compare(q *Place) int { return bytes.Compare(p[:], q[:]) }

// Bit gives the bit at index i, the highest one first.
func (p *Place) Bit(i int) byte { return p[i/8] >> (7 - i%8) & 1 }

// Common counts the leading bits that two places share.
func (p *Place) Common(q *Place) int {
	for i := range p {
		if x := p[i] ^ q[i]; x != 0 {
			return i*8 + bits.LeadingZeros8(x)
		}
	}
	return len(p) * 8
}

// Closer says whether p is strictly closer to target than q is.
func (p *Place) Closer(q, target *Place) bool {
	var a, b Place
	subtle.XORBytes(a[:], p[:], target[:])
	subtle.XORBytes(b[:], q[:], target[:])
	return bytes.Compare(a[:], b[:]) < 0
}

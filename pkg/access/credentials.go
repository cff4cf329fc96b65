package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
)

// ID stands for a client's credentials in memories and logs. It can't be turned back into them, and is another one
// after a restart.
type ID [16]byte

// String gives a part of it, enough to tell clients apart in a log.
func (id ID) String() string { return hex.EncodeToString(id[:4]) }

// Credentials is what a client sent in its Authorization header. However it is printed, it does not show. The zero
// value is a client that sent none.
type Credentials struct {
	header string
	id     ID
}

// pepper keeps IDs from being guessed by whoever can guess passwords.
var pepper = sync.OnceValue(func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // It never fails.
	return key
})

// NewCredentials takes an Authorization header as it came.
func NewCredentials(header string) Credentials {
	if header == "" {
		return Credentials{}
	}
	mac := hmac.New(sha256.New, pepper())
	_, _ = io.WriteString(mac, header) // It never fails.
	c := Credentials{header: header}
	copy(c.id[:], mac.Sum(nil))
	return c
}

// IsZero says that there are none.
func (c Credentials) IsZero() bool { return c.header == "" }

// ID stands for the credentials.
func (c Credentials) ID() ID { return c.id }

// Header gives the Authorization header back: for the request to upstream, and for nothing else.
func (c Credentials) Header() string { return c.header }

// Format implements fmt.Formatter, for all verbs.
func (c Credentials) Format(f fmt.State, _ rune) {
	if c.IsZero() {
		_, _ = io.WriteString(f, "none") // Who prints sees to that.
		return
	}
	_, _ = io.WriteString(f, "client "+c.id.String())
}

// MarshalText keeps encoders from looking inside.
func (c Credentials) MarshalText() ([]byte, error) { return fmt.Append(nil, c), nil }

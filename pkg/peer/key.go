// Package peer is what members say to each other about content: the registry's read API under mutual TLS.
//
// It owns the cluster key and the certificates that come of it, the server's bounds on what it uploads, and the
// client's deadlines. Who the members are and what they hold is discovery's business; which of them to ask is mirror's.
package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"
)

// KeySize is the size of a cluster key in bytes.
const KeySize = 32

// maxKeyFile bounds what is read of a file that should hold a key.
const maxKeyFile = 4 << 10

// Key is a cluster key. Whoever has it is a member: it can join the DHT and read what members hold.
type Key [KeySize]byte

// NewKey makes a key from the system's randomness.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // It never fails, by its documentation.
	return k
}

// String gives the key as ParseKey reads it: base64 (RFC 4648, section 4). It is a secret; nothing logs it.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads a key, with white space around it or without.
func ParseKey(text []byte) (Key, error) {
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		return Key{}, errors.New("it is not base64") // The cause would quote the secret.
	}
	if len(raw) != KeySize {
		return Key{}, fmt.Errorf("it has %d bytes, not %d", len(raw), KeySize)
	}
	return Key(raw), nil
}

// LoadKeys reads one key from each file.
func LoadKeys(files []string) ([]Key, error) {
	var keys []Key
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read cluster key: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read cluster key: %w", err)
		}
		k, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("cluster key in %s: %w; make one with 'kioo key'", name, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// authority is the certificate authority that a cluster key stands for. Every member derives the same one.
type authority struct {
	// id names the key without telling anything of it.
	id      string
	cert    *x509.Certificate
	private ed25519.PrivateKey
}

// The validity of the authority's certificate. It is for the key to end, and for nobody's clock.
var (
	authorityFrom  = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	authorityUntil = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280, section 4.1.2.5: no well-defined end.
)

func newAuthority(k Key) (*authority, error) {
	seed, err := hkdf.Key(sha256.New, k[:], nil, "kioo peer v1: certificate authority", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive certificate authority: %w", err)
	}
	name, err := hkdf.Key(sha256.New, k[:], nil, "kioo peer v1: key name", 8)
	if err != nil {
		return nil, fmt.Errorf("derive name of key: %w", err)
	}
	a := &authority{id: hex.EncodeToString(name), private: ed25519.NewKeyFromSeed(seed)}
	// Nothing in it is random, and Ed25519 signs alike each time: all members have the same certificate to the byte.
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "kioo cluster " + a.id},
		NotBefore:             authorityFrom,
		NotAfter:              authorityUntil,
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.private.Public(), a.private)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	return a, nil
}

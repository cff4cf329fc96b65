package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"
)

const (
	// serverName is the name in every member's certificate. Members are told apart by their addresses; that they
	// are members is all that a certificate proves.
	serverName = "kioo-peer"
	// certificateLife is how long a member's certificate is valid, and renewBefore how long before its end a member
	// makes itself a new one. Clocks may differ by clockSkew.
	certificateLife = 24 * time.Hour
	renewBefore     = 8 * time.Hour
	clockSkew       = time.Hour
	// idPrefix marks the names of keys among the protocols that a client offers (ALPN). None is ever negotiated: the
	// server reads there which of its certificates the client can verify.
	idPrefix = "kioo-key-"
)

// Credentials make members of who has one of the cluster's keys: mutual TLS 1.3 under the authority that a key
// stands for. With several keys, two members agree on one that both have, so that keys can be exchanged while a
// cluster runs. They are safe for concurrent use.
type Credentials struct {
	authorities []*authority
	pool        *x509.CertPool
	now         func() time.Time

	mu    sync.Mutex
	leafs map[string]*tls.Certificate // By the authority's id.
}

// NewCredentials derives the authorities of one or more keys. The first key is preferred.
func NewCredentials(keys []Key, now func() time.Time) (*Credentials, error) {
	if len(keys) == 0 {
		return nil, errors.New("there is no cluster key")
	}
	c := &Credentials{pool: x509.NewCertPool(), now: now, leafs: map[string]*tls.Certificate{}}
	for _, k := range keys {
		a, err := newAuthority(k)
		if err != nil {
			return nil, err
		}
		c.authorities = append(c.authorities, a)
		c.pool.AddCert(a.cert)
	}
	return c, nil
}

// leaf gives the member's own certificate under an authority, a new one when the last one's end is near.
func (c *Credentials) leaf(a *authority) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if l := c.leafs[a.id]; l != nil && now.Before(l.Leaf.NotAfter.Add(-renewBefore)) {
		return l, nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: serverName},
		DNSNames:     []string{serverName},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(certificateLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.private)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	c.leafs[a.id] = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: parsed}
	return c.leafs[a.id], nil
}

// Server gives the configuration of a server that refuses everyone without a key.
func (c *Credentials) Server() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      c.pool,
		NextProtos:     []string{"http/1.1"},
		Time:           c.now,
		GetCertificate: c.forClient,
		// Else the first 128 KiB of each answer after a pause go out a packet at a time, each with a system call and a
		// wake-up of its own at either end: half of every piece.
		DynamicRecordSizingDisabled: true,
	}
}

// forClient chooses the first of our authorities that the client says it knows, else the first of all.
func (c *Credentials) forClient(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for _, a := range c.authorities {
		if slices.Contains(hello.SupportedProtos, idPrefix+a.id) {
			return c.leaf(a)
		}
	}
	return c.leaf(c.authorities[0])
}

// Client gives the configuration of a client that talks to members only.
func (c *Credentials) Client() *tls.Config {
	protocols := []string{"http/1.1"}
	for _, a := range c.authorities {
		protocols = append(protocols, idPrefix+a.id)
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              c.pool,
		ServerName:           serverName,
		NextProtos:           protocols,
		Time:                 c.now,
		ClientSessionCache:   tls.NewLRUClientSessionCache(1024),
		GetClientCertificate: c.forServer,
	}
}

// forServer chooses the first of our authorities among those that the server says it accepts, else the first of all.
func (c *Credentials) forServer(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	for _, a := range c.authorities {
		if slices.ContainsFunc(request.AcceptableCAs, func(ca []byte) bool { return string(ca) == string(a.cert.RawSubject) }) {
			return c.leaf(a)
		}
	}
	return c.leaf(c.authorities[0])
}

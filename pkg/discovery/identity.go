package discovery

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kioo-dev/kioo/pkg/atomicfile"
	"github.com/libp2p/go-libp2p/core/crypto"
)

const (
	identityFile = "identity.pem"
	pemType      = "PRIVATE KEY"
)

// loadIdentity gives the member's private key from its data directory, and makes one where there is none. A key comes
// back even with an error: then it could not be kept, and the next start has another one.
func loadIdentity(dir string) (crypto.PrivKey, error) {
	if dir == "" {
		return newIdentity(nil)
	}
	path := filepath.Join(dir, identityFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(func(key ed25519.PrivateKey) error { return writeIdentity(path, key) })
	}
	if err != nil {
		return newIdentity(func(ed25519.PrivateKey) error { return fmt.Errorf("read identity: %w", err) })
	}
	key, err := parseIdentity(raw)
	if err != nil {
		// It is of no use to anybody; a new one does as well.
		return newIdentity(func(key ed25519.PrivateKey) error { return writeIdentity(path, key) })
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return priv, fmt.Errorf("close identity to others: %w", err)
	}
	return priv, nil
}

func newIdentity(keep func(ed25519.PrivateKey) error) (crypto.PrivKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate identity: %w", err)
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("generate identity: %w", err)
	}
	if keep != nil {
		err = keep(key)
	}
	return priv, err
}

func parseIdentity(raw []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != pemType {
		return nil, errors.New("no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("private key is a %T, not Ed25519", parsed)
	}
	return key, nil
}

// writeIdentity replaces the file as a whole, so that a crash leaves the old one or the new one.
func writeIdentity(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})); err != nil {
		return fmt.Errorf("keep identity: %w", err)
	}
	return nil
}

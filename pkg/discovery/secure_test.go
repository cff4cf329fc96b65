package discovery

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
)

// mustSession makes a handshake of that name without the key.
func mustSession(t *testing.T, m *testMember, id protocol.ID) *noise.SessionTransport {
	t.Helper()
	transport, err := noise.New(id, m.identity, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := transport.WithSessionOptions(noise.Prologue([]byte("a guess")), noise.DisablePeerIDCheck())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

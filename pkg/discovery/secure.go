package discovery

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/multiformats/go-multistream"
)

// keySize is the size of a cluster key in bytes.
const keySize = 32

// errAsked ends an inbound connection whose opener only wanted to know who listens here.
var errAsked = errors.New("the other side only asked who this is")

// security is the handshakes of one cluster key: noise with a secret from the key in its prologue, so that it fails
// for whoever does not know the key, before either side has said anything. The name of the handshake comes from the
// key too. So two members with several keys each agree on one that both have, and a stranger can't even name one.
//
// asks is the same handshake for who has an address and no identity to expect there. libp2p can't dial so. The
// handshake proves who listens, and the connection ends; then libp2p dials whom it now knows.
type security struct {
	joins, asks *handshake
}

func newSecurity(clusterKey []byte, priv crypto.PrivKey) (security, error) {
	prologue, err := hkdf.Key(sha256.New, clusterKey, nil, "kioo discovery v1: noise prologue", 32)
	if err != nil {
		return security{}, fmt.Errorf("derive handshake secret: %w", err)
	}
	name, err := hkdf.Key(sha256.New, clusterKey, nil, "kioo discovery v1: key name", 8)
	if err != nil {
		return security{}, fmt.Errorf("derive name of key: %w", err)
	}
	var s security
	for _, h := range []struct {
		kind string
		to   **handshake
	}{{"join", &s.joins}, {"ask", &s.asks}} {
		id := protocol.ID("/kioo/" + h.kind + "/1/" + hex.EncodeToString(name))
		t, err := noise.New(id, priv, nil)
		if err != nil {
			return security{}, fmt.Errorf("make handshake: %w", err)
		}
		opts := []noise.SessionOption{noise.Prologue(append([]byte(id), prologue...))}
		if h.kind == "ask" {
			opts = append(opts, noise.DisablePeerIDCheck())
		}
		session, err := t.WithSessionOptions(opts...)
		if err != nil {
			return security{}, fmt.Errorf("make handshake: %w", err)
		}
		*h.to = &handshake{SessionTransport: session, asks: h.kind == "ask"}
	}
	return s, nil
}

// handshake is a sec.SecureTransport.
type handshake struct {
	*noise.SessionTransport
	asks bool
}

// SecureInbound implements sec.SecureTransport.
func (h *handshake) SecureInbound(ctx context.Context, conn net.Conn, p peer.ID) (sec.SecureConn, error) {
	c, err := h.SessionTransport.SecureInbound(ctx, conn, p)
	if err == nil && h.asks {
		return nil, errors.Join(errAsked, c.Close())
	}
	if err == nil {
		err = admit(conn)
	}
	if err != nil {
		return nil, err
	}
	return muxed{c}, nil
}

// SecureOutbound implements sec.SecureTransport.
func (h *handshake) SecureOutbound(ctx context.Context, conn net.Conn, p peer.ID) (sec.SecureConn, error) {
	c, err := h.SessionTransport.SecureOutbound(ctx, conn, p)
	return muxed{c}, err
}

// muxed says which multiplexer follows the handshake. There is only one, so that it need not be negotiated.
type muxed struct{ sec.SecureConn }

// ConnState implements sec.SecureConn.
func (m muxed) ConnState() network.ConnectionState {
	state := m.SecureConn.ConnState()
	state.StreamMultiplexer = yamux.ID
	state.UsedEarlyMuxerNegotiation = true
	return state
}

// askIdentity finds out which member listens at an address.
func askIdentity(ctx context.Context, keys []security, addr netip.AddrPort) (peer.ID, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return "", fmt.Errorf("dial %s: %w", addr, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	ids := make([]protocol.ID, len(keys))
	for i, k := range keys {
		ids[i] = k.asks.ID()
	}
	chosen, err := multistream.SelectOneOf(ids, conn)
	if err != nil {
		return "", fmt.Errorf("agree with %s on a key: %w", addr, err)
	}
	for _, k := range keys {
		if k.asks.ID() != chosen {
			continue
		}
		c, err := k.asks.SecureOutbound(ctx, conn, "")
		if err != nil {
			return "", fmt.Errorf("shake hands with %s: %w", addr, err)
		}
		return c.RemotePeer(), nil
	}
	return "", fmt.Errorf("agree with %s on a key: %q was not offered", addr, chosen)
}

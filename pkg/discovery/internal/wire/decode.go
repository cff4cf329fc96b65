package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protowire"
)

// ReadMessage reads one message's body. It returns io.EOF only between two messages.
func ReadMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return nil, Refuse(ReasonSize, "message of %d bytes is larger than %d", n, MaxMessage)
	}
	// Room is made as bytes come: a length alone costs its sender nothing.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body.Bytes(), nil
}

// WriteMessage writes one message in a single write.
func WriteMessage(w io.Writer, body []byte) error {
	if len(body) > MaxMessage {
		return Refuse(ReasonSize, "message of %d bytes is larger than %d", len(body), MaxMessage)
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err := w.Write(append(buf, body...))
	return err
}

// DecodeRequest reads a request's body at that time. What it gives is in its domain.
func DecodeRequest(b []byte, now time.Time) (Request, error) {
	var r Request
	set := 0
	err := fields(b, func(num protowire.Number, body []byte, _ uint64) (err error) {
		switch num {
		case reqHello:
			r.Hello, set = &Hello{}, set+1
			err = r.Hello.decode(body)
		case reqStore:
			r.Store, set = &Store{}, set+1
			err = r.Store.decode(body)
		case reqFind:
			r.Find, set = &Find{}, set+1
			err = r.Find.decode(body)
		case reqGoodbye:
			r.Goodbye, set = &Goodbye{}, set+1
			err = fields(body, func(num protowire.Number, _ []byte, v uint64) error {
				if num == goodbyeEpoch {
					r.Goodbye.Epoch = v
				}
				return nil
			})
		}
		return err
	})
	if err == nil && set != 1 {
		err = Refuse(ReasonFrame, "request with %d known parts", set)
	}
	if err == nil {
		err = r.check(now)
	}
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

func (h *Hello) decode(b []byte) error {
	if err := fields(b, func(num protowire.Number, body []byte, _ uint64) error {
		if num == helloSelf {
			return h.Self.decode(body)
		}
		return nil
	}); err != nil {
		return err
	}
	return h.Self.Validate()
}

func (s *Store) decode(b []byte) error {
	err := fields(b, func(num protowire.Number, body []byte, _ uint64) (err error) {
		switch num {
		case storeSelf:
			return s.Self.decode(body)
		case storeKeys:
			return eachKey(body, func(k Key) error {
				s.Add = append(s.Add, Entry{Key: k})
				return s.bounded()
			})
		case storeTags:
			var e Entry
			if e, err = decodeTag(body); err == nil {
				s.Add = append(s.Add, e)
				err = s.bounded()
			}
		case storeRemove:
			return eachKey(body, func(k Key) error {
				s.Remove = append(s.Remove, k)
				return s.bounded()
			})
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.Self.Validate()
}

func (s *Store) bounded() error {
	if len(s.Add)+len(s.Remove) > MaxBatch {
		return Refuse(ReasonCount, "more than %d keys in a batch", MaxBatch)
	}
	return nil
}

func decodeTag(b []byte) (e Entry, err error) {
	seen := false
	err = fields(b, func(num protowire.Number, body []byte, v uint64) error {
		if num == tagKey {
			if len(body) != len(e.Key) {
				return Refuse(ReasonHash, "key of %d bytes", len(body))
			}
			seen = true
			copy(e.Key[:], body)
			return nil
		}
		return meaning(num, tagDigest, tagConfirmed, body, v, &e.Digest, &e.Confirmed)
	})
	if err == nil && (!seen || e.Digest == "") {
		err = Refuse(ReasonHash, "tag without key or digest")
	}
	return e, err
}

func (f *Find) decode(b []byte) error {
	seen := false
	err := fields(b, func(num protowire.Number, body []byte, _ uint64) error {
		switch num {
		case findKey:
			if len(body) != len(f.Key) {
				return Refuse(ReasonHash, "key of %d bytes", len(body))
			}
			seen = true
			copy(f.Key[:], body)
		case findExclude:
			if len(body) == 0 || len(body) > maxID {
				return Refuse(ReasonIdentity, "excluded identity of %d bytes", len(body))
			}
			if len(f.Exclude) == MaxExclude {
				return Refuse(ReasonCount, "more than %d members excluded", MaxExclude)
			}
			f.Exclude = append(f.Exclude, peer.ID(body))
		}
		return nil
	})
	if err == nil && !seen {
		err = Refuse(ReasonHash, "find without a key")
	}
	return err
}

// DecodeResponse reads a response's body at that time. What it gives is in its domain.
func DecodeResponse(b []byte, now time.Time) (Response, error) {
	var r Response
	err := fields(b, func(num protowire.Number, body []byte, v uint64) error {
		switch num {
		case respSelf:
			r.Self = &Member{}
			return decodeMember(body, r.Self)
		case respMembers:
			var m Member
			if len(r.Members) == MaxMembers {
				return Refuse(ReasonCount, "more than %d members", MaxMembers)
			}
			if err := decodeMember(body, &m); err != nil {
				return err
			}
			r.Members = append(r.Members, m)
		case respProviders:
			if len(r.Providers) == MaxProviders {
				return Refuse(ReasonCount, "more than %d providers", MaxProviders)
			}
			p, err := decodeProvider(body)
			if err != nil {
				return err
			}
			r.Providers = append(r.Providers, p)
		case respFresh:
			r.Fresh = v != 0
		case respRefused:
			if v > MaxBatch {
				return Refuse(ReasonCount, "%d entries refused of %d at most", v, MaxBatch)
			}
			r.Refused = int(v)
		}
		return nil
	})
	if err == nil {
		err = r.check(now)
	}
	if err != nil {
		return Response{}, err
	}
	return r, nil
}

func decodeProvider(b []byte) (p Provider, err error) {
	err = fields(b, func(num protowire.Number, body []byte, v uint64) error {
		if num == providerMember {
			return p.Member.decode(body)
		}
		return meaning(num, providerDigest, providerConfirmed, body, v, &p.Digest, &p.Confirmed)
	})
	if err == nil {
		err = p.Member.Validate()
	}
	return p, err
}

func decodeMember(b []byte, m *Member) error {
	if err := m.decode(b); err != nil {
		return err
	}
	return m.Validate()
}

func (m *Member) decode(b []byte) error {
	return fields(b, func(num protowire.Number, body []byte, v uint64) error {
		switch num {
		case memberID:
			if len(body) > maxID {
				return Refuse(ReasonIdentity, "identity of %d bytes", len(body))
			}
			m.ID = peer.ID(body)
		case memberAddrs:
			if len(m.Addrs) == maxAddrs {
				return Refuse(ReasonCount, "more than %d addresses", maxAddrs)
			}
			a, err := decodeAddr(body)
			if err != nil {
				return err
			}
			m.Addrs = append(m.Addrs, a)
		case memberAPI:
			if len(m.PeerAPI) == maxAddrs {
				return Refuse(ReasonCount, "more than %d addresses of a peer API", maxAddrs)
			}
			if len(body) > maxHost {
				return Refuse(ReasonAddress, "peer API address of %d characters", len(body))
			}
			m.PeerAPI = append(m.PeerAPI, string(body))
		case memberZone:
			if len(body) > maxZone {
				return Refuse(ReasonZone, "zone of %d characters", len(body))
			}
			m.Zone = string(body)
		case memberEpoch:
			m.Epoch = v
		}
		return nil
	})
}

func decodeAddr(b []byte) (netip.AddrPort, error) {
	if len(b) != 6 && len(b) != maxAddress {
		return netip.AddrPort{}, Refuse(ReasonAddress, "address of %d bytes", len(b))
	}
	ip, _ := netip.AddrFromSlice(b[:len(b)-2])
	port := binary.BigEndian.Uint16(b[len(b)-2:])
	if port == 0 {
		return netip.AddrPort{}, Refuse(ReasonAddress, "address %s without a port", ip)
	}
	return netip.AddrPortFrom(ip, port), nil
}

// meaning reads the two fields that say what a tag means.
func meaning(
	num, dgstField, timeField protowire.Number, body []byte, v uint64, dgst *digest.Digest, confirmed *time.Time,
) error {
	switch num {
	case dgstField:
		if len(body) == 0 || len(body) > maxDigest {
			return Refuse(ReasonHash, "digest of %d characters", len(body))
		}
		*dgst = digest.Digest(body)
		if err := dgst.Validate(); err != nil {
			return Refuse(ReasonHash, "digest %.80q", body)
		}
	case timeField:
		if v == 0 || v > math.MaxInt64 {
			return Refuse(ReasonAge, "word of a registry at %d ns", v)
		}
		*confirmed = time.Unix(0, int64(v))
	}
	return nil
}

func eachKey(b []byte, keep func(Key) error) error {
	if len(b)%len(Key{}) != 0 {
		return Refuse(ReasonHash, "keys of %d bytes", len(b))
	}
	for ; len(b) > 0; b = b[len(Key{}):] {
		if err := keep(Key(b[:len(Key{})])); err != nil {
			return err
		}
	}
	return nil
}

// fields walks through a message. Fields of other types than bytes and varint are skipped: none of ours have them.
func fields(b []byte, visit func(num protowire.Number, body []byte, v uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Refuse(ReasonFrame, "field without a tag")
		}
		b = b[n:]
		var body []byte
		var v uint64
		switch typ {
		case protowire.BytesType:
			body, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return Refuse(ReasonFrame, "field %d is cut off", num)
		}
		b = b[n:]
		if err := visit(num, body, v); err != nil {
			return err
		}
	}
	return nil
}

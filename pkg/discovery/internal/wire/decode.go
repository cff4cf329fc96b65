package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unicode/utf8"

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
		return nil, fmt.Errorf("message of %d bytes is larger than %d: %w", n, MaxMessage, ErrMalformed)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body, nil
}

// WriteMessage writes one message in a single write.
func WriteMessage(w io.Writer, body []byte) error {
	if len(body) > MaxMessage {
		return fmt.Errorf("message of %d bytes is larger than %d: %w", len(body), MaxMessage, ErrMalformed)
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err := w.Write(append(buf, body...))
	return err
}

// DecodeRequest reads a request's body.
func DecodeRequest(b []byte) (Request, error) {
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
		err = fmt.Errorf("request with %d known parts: %w", set, ErrMalformed)
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
		return fmt.Errorf("more than %d keys in a batch: %w", MaxBatch, ErrMalformed)
	}
	return nil
}

func decodeTag(b []byte) (e Entry, err error) {
	seen := false
	err = fields(b, func(num protowire.Number, body []byte, v uint64) error {
		if num == tagKey {
			if len(body) != len(e.Key) {
				return fmt.Errorf("key of %d bytes: %w", len(body), ErrMalformed)
			}
			seen = true
			copy(e.Key[:], body)
			return nil
		}
		return meaning(num, tagDigest, tagConfirmed, body, v, &e.Digest, &e.Confirmed)
	})
	if err == nil && (!seen || e.Digest == "") {
		err = fmt.Errorf("tag without key or digest: %w", ErrMalformed)
	}
	return e, err
}

func (f *Find) decode(b []byte) error {
	seen := false
	err := fields(b, func(num protowire.Number, body []byte, v uint64) error {
		switch num {
		case findKey:
			if len(body) != len(f.Key) {
				return fmt.Errorf("key of %d bytes: %w", len(body), ErrMalformed)
			}
			seen = true
			copy(f.Key[:], body)
		case findProviders:
			f.Providers = v != 0
		case findClosest:
			if v > MaxClosest {
				return fmt.Errorf("%d closest members asked for: %w", v, ErrMalformed)
			}
			f.Closest = int(v)
		case findExclude:
			if len(body) == 0 || len(body) > maxID || len(f.Exclude) == MaxExclude {
				return fmt.Errorf("excluded members: %w", ErrMalformed)
			}
			f.Exclude = append(f.Exclude, peer.ID(body))
		}
		return nil
	})
	if err == nil && !seen {
		err = fmt.Errorf("find without a key: %w", ErrMalformed)
	}
	return err
}

// DecodeResponse reads a response's body.
func DecodeResponse(b []byte) (Response, error) {
	var r Response
	err := fields(b, func(num protowire.Number, body []byte, v uint64) error {
		switch num {
		case respSelf:
			r.Self = &Member{}
			return decodeMember(body, r.Self)
		case respMembers:
			var m Member
			if len(r.Members) == MaxMembers {
				return fmt.Errorf("more than %d members: %w", MaxMembers, ErrMalformed)
			}
			if err := decodeMember(body, &m); err != nil {
				return err
			}
			r.Members = append(r.Members, m)
		case respProviders:
			if len(r.Providers) == MaxProviders {
				return fmt.Errorf("more than %d providers: %w", MaxProviders, ErrMalformed)
			}
			p, err := decodeProvider(body)
			if err != nil {
				return err
			}
			r.Providers = append(r.Providers, p)
		case respFresh:
			r.Fresh = v != 0
		case respRefused:
			r.Refused = int(min(v, MaxBatch))
		}
		return nil
	})
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
			m.ID = peer.ID(body)
		case memberAddrs:
			if len(body) != 6 && len(body) != maxAddress || len(m.Addrs) == maxAddrs {
				return fmt.Errorf("addresses of a member: %w", ErrMalformed)
			}
			ip, _ := netip.AddrFromSlice(body[:len(body)-2])
			m.Addrs = append(m.Addrs, netip.AddrPortFrom(ip, binary.BigEndian.Uint16(body[len(body)-2:])))
		case memberAPI:
			if len(m.PeerAPI) == maxAddrs || !utf8.Valid(body) {
				return fmt.Errorf("peer API addresses of a member: %w", ErrMalformed)
			}
			m.PeerAPI = append(m.PeerAPI, string(body))
		case memberZone:
			if len(body) > maxZone || !utf8.Valid(body) {
				return fmt.Errorf("zone of a member: %w", ErrMalformed)
			}
			m.Zone = string(body)
		case memberEpoch:
			m.Epoch = v
		}
		return nil
	})
}

// meaning reads the two fields that say what a tag means.
func meaning(
	num, dgstField, timeField protowire.Number, body []byte, v uint64, dgst *digest.Digest, confirmed *time.Time,
) error {
	switch num {
	case dgstField:
		if len(body) == 0 || len(body) > maxDigest {
			return fmt.Errorf("digest of %d characters: %w", len(body), ErrMalformed)
		}
		*dgst = digest.Digest(body)
		if err := dgst.Validate(); err != nil {
			return fmt.Errorf("digest %.80q: %w", body, ErrMalformed)
		}
	case timeField:
		*confirmed = time.Unix(0, int64(v))
	}
	return nil
}

func eachKey(b []byte, keep func(Key) error) error {
	if len(b)%len(Key{}) != 0 {
		return fmt.Errorf("keys of %d bytes: %w", len(b), ErrMalformed)
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
			return fmt.Errorf("field tag: %w", ErrMalformed)
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
			return fmt.Errorf("field %d: %w", num, ErrMalformed)
		}
		b = b[n:]
		if err := visit(num, body, v); err != nil {
			return err
		}
	}
	return nil
}

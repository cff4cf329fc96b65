package wire

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers. They may never be used for anything else.
const (
	reqHello   = 1
	reqStore   = 2
	reqFind    = 3
	reqGoodbye = 4

	helloSelf = 1

	storeSelf   = 1
	storeKeys   = 2 // All keys of content, one after the other.
	storeTags   = 3
	storeRemove = 4 // All withdrawn keys, one after the other.

	tagKey       = 1
	tagDigest    = 2
	tagConfirmed = 3 // Nanoseconds since 1970.

	findKey       = 1
	findProviders = 2 // Always true: earlier versions name nobody without it.
	_             = 3 // Earlier versions can ask for so many of the closest members.
	findExclude   = 4

	goodbyeEpoch = 1

	respSelf      = 1
	respMembers   = 2
	respProviders = 3
	respFresh     = 4
	respRefused   = 5

	providerMember    = 1
	providerDigest    = 2
	providerConfirmed = 3

	memberID    = 1
	memberAddrs = 2 // 4 or 16 bytes of address and two of port.
	memberAPI   = 3
	memberZone  = 4
	memberEpoch = 5
)

// Encode gives the request's body.
func (r Request) Encode() []byte {
	switch {
	case r.Hello != nil:
		return appendMessage(nil, reqHello, appendMessage(nil, helloSelf, r.Hello.Self.encode()))
	case r.Store != nil:
		return appendMessage(nil, reqStore, r.Store.encode())
	case r.Find != nil:
		return appendMessage(nil, reqFind, r.Find.encode())
	case r.Goodbye != nil:
		return appendMessage(nil, reqGoodbye, appendVarint(nil, goodbyeEpoch, r.Goodbye.Epoch))
	}
	return nil
}

func (s *Store) encode() []byte {
	b := appendMessage(make([]byte, 0, 256+len(Key{})*(len(s.Add)+len(s.Remove))), storeSelf, s.Self.encode())
	var keys []byte
	for i := range s.Add {
		if e := &s.Add[i]; e.Digest == "" {
			keys = append(keys, e.Key[:]...)
		} else {
			tag := appendBytes(nil, tagKey, e.Key[:])
			b = appendMessage(b, storeTags, appendMeaning(tag, tagDigest, tagConfirmed, e.Digest, e.Confirmed))
		}
	}
	b = appendBytes(b, storeKeys, keys)
	keys = keys[:0]
	for i := range s.Remove {
		keys = append(keys, s.Remove[i][:]...)
	}
	return appendBytes(b, storeRemove, keys)
}

func (f *Find) encode() []byte {
	b := appendBytes(nil, findKey, f.Key[:])
	b = appendVarint(b, findProviders, protowire.EncodeBool(true))
	for _, id := range f.Exclude {
		b = appendBytes(b, findExclude, []byte(id))
	}
	return b
}

// Encode gives the response's body.
func (r Response) Encode() []byte {
	var b []byte
	if r.Self != nil {
		b = appendMessage(b, respSelf, r.Self.encode())
	}
	for i := range r.Members {
		b = appendMessage(b, respMembers, r.Members[i].encode())
	}
	for i := range r.Providers {
		p := &r.Providers[i]
		body := appendMessage(nil, providerMember, p.Member.encode())
		b = appendMessage(b, respProviders, appendMeaning(body, providerDigest, providerConfirmed, p.Digest, p.Confirmed))
	}
	b = appendVarint(b, respFresh, protowire.EncodeBool(r.Fresh))
	return appendVarint(b, respRefused, uint64(r.Refused))
}

func (m *Member) encode() []byte {
	b := appendBytes(make([]byte, 0, 128), memberID, []byte(m.ID))
	for _, a := range m.Addrs {
		b = appendBytes(b, memberAddrs, appendAddr(nil, a))
	}
	for _, a := range m.PeerAPI {
		b = appendBytes(b, memberAPI, []byte(a))
	}
	b = appendBytes(b, memberZone, []byte(m.Zone))
	return appendVarint(b, memberEpoch, m.Epoch)
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(append(b, a.Addr().AsSlice()...), a.Port())
}

func appendMeaning(b []byte, dgstField, timeField protowire.Number, dgst digest.Digest, confirmed time.Time) []byte {
	b = appendBytes(b, dgstField, []byte(dgst))
	if !confirmed.IsZero() {
		b = appendVarint(b, timeField, uint64(confirmed.UnixNano()))
	}
	return b
}

// appendMessage appends a field that is a message, even an empty one.
func appendMessage(b []byte, num protowire.Number, body []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), body)
}

// appendBytes appends a field of bytes unless it is empty.
func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return appendMessage(b, num, v)
}

// appendVarint appends a number unless it is zero.
func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

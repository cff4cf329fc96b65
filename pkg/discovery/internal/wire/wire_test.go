package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protowire"
)

// now is when everything is read.
var now = time.Unix(1_000_000_000, 0)

func member() Member {
	return Member{
		ID:      "some member",
		Addrs:   []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:28502"), netip.MustParseAddrPort("[fd00::1]:28502")},
		PeerAPI: []string{"10.0.0.1:28501", "node-1.example:28501"},
		Zone:    "eu-1a",
		Epoch:   17,
	}
}

func requests() []Request {
	tag := Entry{Key: KeyOf("tag", "x"), Digest: digest.FromString("x"), Confirmed: time.Unix(0, 1234567890)}
	return []Request{
		{Hello: &Hello{Self: member()}},
		{Store: &Store{
			Self: member(), Add: []Entry{tag, {Key: KeyOf("a", "1")}, {Key: KeyOf("a", "2")}}, Remove: []Key{{1}, {2}},
		}},
		{Store: &Store{Self: Member{ID: "bare"}}},
		{Find: &Find{Key: KeyOf("a", "1"), Exclude: []peer.ID{"dead", "deader"}}},
		{Find: &Find{}},
		{Goodbye: &Goodbye{Epoch: 4}},
		{Goodbye: &Goodbye{}},
	}
}

// find excludes that many members.
func find(excluded int) Request {
	return Request{Find: &Find{Exclude: slices.Repeat([]peer.ID{"dead"}, excluded)}}
}

func responses() []Response {
	m := member()
	return []Response{
		{},
		{Self: &m, Members: []Member{{ID: "other"}, m}},
		{
			Providers: []Provider{{Member: m}, {Member: m, Digest: digest.FromString("y"), Confirmed: time.Unix(7, 7)}},
			Fresh:     true,
		},
		{Refused: 12},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range requests() {
		got, err := DecodeRequest(want.Encode(), now)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("request came back as %+v, %v; want %+v", got, err, want)
		}
	}
	for _, want := range responses() {
		got, err := DecodeResponse(want.Encode(), now)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("response came back as %+v, %v; want %+v", got, err, want)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	b := requests()[0].Encode()
	b = protowire.AppendFixed64(protowire.AppendTag(b, 99, protowire.Fixed64Type), 1)
	b = appendMessage(b, 98, []byte("later"))
	if _, err := DecodeRequest(b, now); err != nil {
		t.Error(err)
	}
}

func TestMalformed(t *testing.T) {
	many := &Store{Self: member()}
	for range MaxBatch + 1 {
		many.Add = append(many.Add, Entry{})
	}
	badTag := appendMessage(nil, storeTags, appendBytes(nil, tagKey, make([]byte, 32)))
	with := func(change func(*Member)) []byte {
		m := member()
		change(&m)
		return Request{Hello: &Hello{Self: m}}.Encode()
	}
	for name, body := range map[string][]byte{
		"empty":          nil,
		"two requests":   append(requests()[0].Encode(), requests()[3].Encode()...),
		"truncated":      requests()[1].Encode()[:40],
		"too many keys":  Request{Store: many}.Encode(),
		"no identity":    with(func(m *Member) { m.ID = "" }),
		"long identity":  with(func(m *Member) { m.ID = peer.ID(strings.Repeat("x", maxID+1)) }),
		"too many addrs": with(func(m *Member) { m.PeerAPI = strings.Split(strings.Repeat("h:1 ", maxAddrs)+"h:1", " ") }),
		"API no port":    with(func(m *Member) { m.PeerAPI = []string{"host"} }),
		"API port 0":     with(func(m *Member) { m.PeerAPI = []string{"host:0"} }),
		"any address":    with(func(m *Member) { m.Addrs = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:1")} }),
		"long zone":      with(func(m *Member) { m.Zone = strings.Repeat("z", maxZone+1) }),
		"tag, no digest": appendMessage(nil, reqStore, append(badTag, (&Store{Self: member()}).encode()...)),
		"keys cut off":   appendMessage(nil, reqStore, appendMessage(nil, storeKeys, make([]byte, 33))),
		"find no key":    appendMessage(nil, reqFind, nil),
		"too many dead":  find(MaxExclude + 1).Encode(),
	} {
		if _, err := DecodeRequest(body, now); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// TestReasons has values beyond the edge of each domain, and says why they are refused; those at the edge are taken.
func TestReasons(t *testing.T) {
	hello := func(change func(*Member)) Request {
		m := member()
		change(&m)
		return Request{Hello: &Hello{Self: m}}
	}
	at := func(addr string) Request {
		return hello(func(m *Member) { m.Addrs = []netip.AddrPort{netip.MustParseAddrPort(addr)} })
	}
	api := func(addr string) Request { return hello(func(m *Member) { m.PeerAPI = []string{addr} }) }
	zone := func(z string) Request { return hello(func(m *Member) { m.Zone = z }) }
	start := func(t time.Time) Request { return hello(func(m *Member) { m.Epoch = uint64(t.UnixMilli()) }) }
	said := func(t time.Time) Request {
		e := Entry{Key: Key{1}, Digest: digest.FromString("x"), Confirmed: t}
		return Request{Store: &Store{Self: member(), Add: []Entry{e}}}
	}
	for _, test := range []struct {
		name string
		req  Request
		want Reason // Empty is taken.
	}{
		{"first port", at("10.0.0.1:1"), ""},
		{"last port", at("10.0.0.1:65535"), ""},
		{"no port", at("10.0.0.1:0"), ReasonAddress},
		{"loopback", at("[::1]:1"), ""},
		{"multicast", at("224.0.0.1:1"), ReasonAddress},
		{"IPv6 multicast", at("[ff02::1]:1"), ReasonAddress},
		{"broadcast", at("255.255.255.255:1"), ReasonAddress},
		{"unspecified", at("[::]:1"), ReasonAddress},
		{"IPv4 in IPv6", at("[::ffff:10.0.0.1]:1"), ReasonAddress},
		{"link-local", at("[fe80::1]:1"), ReasonAddress},
		{"API by name", api("node-1.example:65535"), ""},
		{"API port", api("node-1.example:65536"), ReasonAddress},
		{"API unspecified", api("0.0.0.0:1"), ReasonAddress},
		{"API of another machine's link", api("[fe80::1%eth0]:1"), ReasonAddress},
		{"API with a line's end", api("a\nb:1"), ReasonAddress},
		{"API of a path", api("a/b:1"), ReasonAddress},
		{"longest zone", zone(strings.Repeat("z", 63)), ""},
		{"zone too long", zone(strings.Repeat("z", 64)), ReasonZone},
		{"zone with a line's end", zone("a\nb"), ReasonZone},
		{"start a day ahead", start(now.Add(24 * time.Hour)), ""},
		{"start later", start(now.Add(24*time.Hour + time.Millisecond)), ReasonAge},
		{"start at the end of time", hello(func(m *Member) { m.Epoch = math.MaxUint64 }), ReasonAge},
		{"said an hour ahead", said(now.Add(time.Hour)), ""},
		{"said later", said(now.Add(time.Hour + 1)), ReasonAge},
		{"said in 1970", said(time.Unix(0, 1)), ""},
		{"said before", said(time.Unix(0, -1)), ReasonAge},
		{"most excluded", find(MaxExclude), ""},
		{"more excluded", find(MaxExclude + 1), ReasonCount},
	} {
		got, err := DecodeRequest(test.req.Encode(), now)
		reason, refused := ReasonOf(err)
		if reason != test.want || refused != (test.want != "") {
			t.Errorf("%s: %v, want reason %q", test.name, err, test.want)
		}
		if err == nil && got.Store != nil && got.Store.Add[0].Confirmed.After(now) {
			t.Errorf("%s: word that is to come", test.name)
		}
	}
	for _, test := range []struct {
		name string
		resp Response
		want Reason
	}{
		{"all refused", Response{Refused: MaxBatch}, ""},
		{"more refused", Response{Refused: MaxBatch + 1}, ReasonCount},
		{"word that is to come", Response{Providers: []Provider{{Member: member(), Digest: digest.FromString("x"), Confirmed: now.Add(2 * time.Hour)}}}, ReasonAge},
	} {
		if reason, _ := ReasonOf(func() error { _, err := DecodeResponse(test.resp.Encode(), now); return err }()); reason != test.want {
			t.Errorf("%s: reason %q, want %q", test.name, reason, test.want)
		}
	}
	// A third member may have been heard of by another clock: only it is left out.
	future := Member{ID: "future", Epoch: math.MaxInt64}
	got, err := DecodeResponse(Response{Members: []Member{future, member()}}.Encode(), now)
	if err != nil || len(got.Members) != 1 || got.Members[0].ID != member().ID {
		t.Errorf("left of hearsay is %+v, %v", got.Members, err)
	}
}

func TestLargestBatchFits(t *testing.T) {
	s := &Store{Self: member()}
	for range MaxBatch {
		s.Add = append(s.Add, Entry{Digest: digest.SHA512.FromString("x"), Confirmed: time.Now()})
	}
	if n := len(Request{Store: s}.Encode()); n > MaxMessage {
		t.Errorf("largest batch has %d bytes", n)
	}
}

func TestMessages(t *testing.T) {
	var buf bytes.Buffer
	for _, body := range []string{"one", "", "three"} {
		if err := WriteMessage(&buf, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"one", "", "three"} {
		if got, err := ReadMessage(&buf); err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	if _, err := ReadMessage(&buf); err != io.EOF {
		t.Errorf("after the last message: %v", err)
	}
	if _, err := ReadMessage(strings.NewReader("\x00\x00\x00\x05abc")); err != io.ErrUnexpectedEOF {
		t.Errorf("message cut off: %v", err)
	}
	if _, err := ReadMessage(strings.NewReader("\xff\xff\xff\xff")); !errors.Is(err, ErrMalformed) {
		t.Errorf("huge message: %v", err)
	}
	if err := WriteMessage(&buf, make([]byte, MaxMessage+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("huge message written: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, r := range requests() {
		f.Add(r.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b, now)
		if err != nil {
			return
		}
		again, err := DecodeRequest(r.Encode(), now)
		if err != nil || !bytes.Equal(again.Encode(), r.Encode()) {
			t.Errorf("%+v does not survive: %+v, %v", r, again, err)
		}
	})
}

func FuzzResponse(f *testing.F) {
	for _, r := range responses() {
		f.Add(r.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeResponse(b, now)
		if err != nil {
			return
		}
		again, err := DecodeResponse(r.Encode(), now)
		if err != nil || !bytes.Equal(again.Encode(), r.Encode()) {
			t.Errorf("%+v does not survive: %+v, %v", r, again, err)
		}
	})
}

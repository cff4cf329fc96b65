package discovery

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// These targets have a member say what is well-formed and hostile: values at the edges of their domains and beyond. It
// is refused, or what is remembered of it is in its domain and within the member's share.

const (
	speaker    = peer.ID("speaker")
	fuzzShare  = 64
	fuzzMaxKey = 3 * fuzzShare
)

var fuzzNow = time.Unix(2_000_000_000, 0)

// fuzzed makes a member that does not run: it is told by hear alone.
func fuzzed(t *testing.T) *Discovery {
	t.Helper()
	d, err := New(Config{
		Keys: [][]byte{clusterKey(1)}, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:28502")}, MaxMembers: 2 * fuzzShare, MaxRecordsPerMember: fuzzShare,
		Now: func() time.Time { return fuzzNow },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// claim is what a member says of itself, or of others.
func claim(id peer.ID, ip []byte, port uint16, count uint8, api, zone string, epoch uint64) Member {
	m := Member{ID: id, Zone: zone, Epoch: epoch}
	addr, _ := netip.AddrFromSlice(ip) // Else it is the one that is none.
	for range count % 12 {
		m.Addrs = append(m.Addrs, netip.AddrPortFrom(addr, port))
	}
	if api != "" {
		m.PeerAPI = strings.Split(api, ",")
	}
	return m
}

// says has a member say something, and looks at what comes of it.
func says(t *testing.T, d *Discovery, req wire.Request) {
	t.Helper()
	answer, err := d.hear(speaker, req.Encode())
	if err == nil {
		if len(answer) > wire.MaxMessage {
			t.Errorf("the answer has %d bytes", len(answer))
		}
		_, err := wire.DecodeResponse(answer, fuzzNow)
		if err != nil {
			t.Errorf("the answer is refused by who asked: %v", err)
		}
	} else if !d.refuse(speaker, err) {
		t.Errorf("refused without a reason: %v", err)
	}
	sane(t, d)
}

// sane fails the test if anything is remembered that can't be so.
func sane(t *testing.T, d *Discovery) {
	t.Helper()
	known := d.table.Members()
	if len(known) > 2*2*fuzzShare {
		t.Errorf("%d members are known", len(known))
	}
	for _, m := range known {
		if err := m.Validate(); err != nil {
			t.Errorf("known is %+v: %v", m, err)
		}
		for _, a := range m.Addrs {
			if a.Port() == 0 {
				t.Errorf("known is %s", a)
			}
		}
		if start := time.UnixMilli(int64(m.Epoch)); m.Epoch > math.MaxInt64 || start.After(fuzzNow.Add(25*time.Hour)) {
			t.Errorf("known is one that starts at %v", start)
		}
	}
	if n := d.index.Len(); n > fuzzShare {
		t.Errorf("%d records of one member are kept", n)
	}
	for i := range fuzzMaxKey {
		for _, r := range d.index.Get(fuzzNow, fuzzKey(i)) {
			if r.ID != speaker || r.Confirmed.After(fuzzNow) || r.Digest != "" && r.Digest.Validate() != nil {
				t.Errorf("kept is %+v", r)
			}
		}
	}
}

func fuzzKey(i int) Key { return TagKey(fmt.Sprint(i)) }

// edges gives to add values at the edges of what members say of themselves.
func edges(add func(ip []byte, port uint16, count uint8, api, zone string, epoch uint64)) {
	loop := []byte{127, 0, 0, 1}
	add(loop, 1, 1, "127.0.0.1:1", "a", 1)
	add(loop, 65535, 8, "127.0.0.1:65535", strings.Repeat("z", 63), uint64(fuzzNow.UnixMilli()))
	add(loop, 0, 1, "127.0.0.1:0", "", 0)
	add(loop, 1, 9, strings.Repeat("h:1,", 8)+"h:1", strings.Repeat("z", 64), math.MaxInt64)
	add(nil, 1, 1, ":1", " ", math.MaxUint64)
	add([]byte{0, 0, 0, 0}, 1, 1, "0.0.0.0:1", "a\nb", math.MaxInt64+1)
	add([]byte{255, 255, 255, 255}, 1, 1, "[ff02::1]:1", "é", uint64(fuzzNow.Add(24*time.Hour).UnixMilli()))
	add([]byte{224, 0, 0, 1}, 1, 1, "host name:1", "\x00", uint64(fuzzNow.Add(24*time.Hour).UnixMilli())+1)
	add(netip.MustParseAddr("::ffff:10.0.0.1").AsSlice(), 1, 1, "[::ffff:10.0.0.1]:1", "", 1)
	add(netip.MustParseAddr("fe80::1").AsSlice(), 1, 1, "[fe80::1%eth0]:1", "", 1)
	add(netip.MustParseAddr("::").AsSlice(), 1, 1, strings.Repeat("h", 260)+":1", "", 1)
}

func FuzzHello(f *testing.F) {
	edges(func(ip []byte, port uint16, count uint8, api, zone string, epoch uint64) {
		f.Add(string(speaker), ip, port, count, api, zone, epoch)
		f.Add("other", ip, port, count, api, zone, epoch)
	})
	f.Fuzz(func(t *testing.T, id string, ip []byte, port uint16, count uint8, api, zone string, epoch uint64) {
		d := fuzzed(t)
		says(t, d, wire.Request{Hello: &wire.Hello{Self: claim(peer.ID(id), ip, port, count, api, zone, epoch)}})
		for _, m := range d.table.Members() {
			if m.ID != speaker {
				t.Errorf("%q is known by the word of %q", m.ID, speaker)
			}
		}
	})
}

func FuzzAnnounce(f *testing.F) {
	digests := []string{"", "sha256:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("0", 63), "md5:00", strings.Repeat("x", 200)}
	for _, dgst := range digests {
		for _, at := range []int64{0, 1, -1, math.MinInt64, math.MaxInt64, fuzzNow.UnixNano(), fuzzNow.Add(time.Hour).UnixNano() + 1} {
			f.Add(dgst, at, uint16(1), uint16(1), uint64(1), uint8(2))
		}
	}
	for _, n := range []uint16{0, fuzzShare, fuzzShare + 1, wire.MaxBatch, wire.MaxBatch + 1} {
		f.Add(digests[1], fuzzNow.UnixNano(), n, uint16(0), uint64(math.MaxUint64), uint8(3))
		f.Add("", int64(0), n, n, uint64(1), uint8(9))
	}
	f.Fuzz(func(t *testing.T, dgst string, confirmed int64, add, remove uint16, epoch uint64, lives uint8) {
		d := fuzzed(t)
		for life := range uint64(lives%10) + 1 {
			s := &wire.Store{Self: Member{ID: speaker, Epoch: epoch + life}}
			for i := range int(min(add, wire.MaxBatch+1)) {
				key := fuzzKey((i + int(life)*fuzzShare) % fuzzMaxKey)
				s.Add = append(s.Add, Entry{Key: key, Digest: digest.Digest(dgst), Confirmed: time.Unix(0, confirmed)})
			}
			for i := range int(min(remove, wire.MaxBatch+1)) {
				s.Remove = append(s.Remove, fuzzKey(i%fuzzMaxKey))
			}
			says(t, d, wire.Request{Store: s})
		}
	})
}

func FuzzFind(f *testing.F) {
	for _, excluded := range []uint8{0, 1, wire.MaxExclude, wire.MaxExclude + 1} {
		f.Add(excluded, "someone")
	}
	f.Add(uint8(1), strings.Repeat("x", 65))
	f.Fuzz(func(t *testing.T, excluded uint8, id string) {
		d := fuzzed(t)
		for i := range fuzzShare {
			d.table.Heard(Member{ID: peer.ID(fmt.Sprint("member-", i)), Epoch: 1}, fuzzNow)
		}
		d.index.Store(fuzzNow, speaker, 1, hold(fuzzKey(1)), nil)
		find := &wire.Find{Key: fuzzKey(1)}
		for range excluded {
			find.Exclude = append(find.Exclude, peer.ID(id))
		}
		before := len(d.table.Members())
		says(t, d, wire.Request{Find: find})
		if after := len(d.table.Members()); after != before {
			t.Errorf("a question changed %d members to %d", before, after)
		}
	})
}

func FuzzGoodbye(f *testing.F) {
	for _, epoch := range []uint64{0, 1, 2, math.MaxInt64, math.MaxUint64} {
		f.Add(epoch, true)
		f.Add(epoch, false)
	}
	f.Fuzz(func(t *testing.T, epoch uint64, known bool) {
		d := fuzzed(t)
		d.table.Heard(Member{ID: "other", Epoch: 1}, fuzzNow)
		if known {
			d.table.Heard(Member{ID: speaker, Epoch: 1}, fuzzNow)
		}
		says(t, d, wire.Request{Goodbye: &wire.Goodbye{Epoch: epoch}})
		if !d.table.Live("other") {
			t.Error("a goodbye ended another member")
		}
	})
}

// FuzzAnswer is what a member answers, with lists of members and providers.
func FuzzAnswer(f *testing.F) {
	edges(func(ip []byte, port uint16, count uint8, api, zone string, epoch uint64) {
		f.Add(ip, port, count, api, zone, epoch, uint8(1), uint8(1), 0, fuzzNow.UnixNano())
	})
	for _, n := range []uint8{0, wire.MaxProviders, wire.MaxProviders + 1, wire.MaxMembers, wire.MaxMembers + 1} {
		f.Add([]byte{10, 0, 0, 1}, uint16(1), uint8(1), "h:1", "a", uint64(1), n, n, wire.MaxBatch+int(n)%2, int64(math.MaxInt64))
	}
	f.Fuzz(func(
		t *testing.T, ip []byte, port uint16, count uint8, api, zone string, epoch uint64, members, providers uint8, refused int,
		confirmed int64,
	) {
		d := fuzzed(t)
		d.table.Heard(Member{ID: "known", Epoch: 1}, fuzzNow)
		of := func(id peer.ID) Member { return claim(id, ip, port, count, api, zone, epoch) }
		self := of(speaker)
		r := wire.Response{Self: &self, Refused: refused}
		for i := range members {
			r.Members = append(r.Members, of(peer.ID(fmt.Sprint("other-", i))))
		}
		r.Members = append(r.Members, of("known"))
		for i := range providers {
			p := Provider{Member: of(peer.ID(fmt.Sprint("holder-", i))), Confirmed: time.Unix(0, confirmed)}
			p.Digest = digest.FromString("x")
			r.Providers = append(r.Providers, p)
		}
		got, err := wire.DecodeResponse(r.Encode(), fuzzNow)
		if err != nil {
			if !d.refuse(speaker, err) {
				t.Errorf("refused without a reason: %v", err)
			}
			return
		}
		if got.Refused > wire.MaxBatch || got.Refused < 0 {
			t.Errorf("%d entries refused", got.Refused)
		}
		for _, p := range got.Providers {
			if p.Confirmed.After(fuzzNow) {
				t.Errorf("word of a registry from %v", p.Confirmed)
			}
		}
		if got.Self == nil || got.Self.ID != speaker {
			t.Fatalf("answer is of %+v", got.Self)
		}
		d.heard(*got.Self)
		d.learn(speaker, got.Members)
		sane(t, d)
		if m, live := d.table.Get("known"); !live || m.Epoch != 1 {
			t.Errorf("hearsay made of a live member %+v", m)
		}
	})
}

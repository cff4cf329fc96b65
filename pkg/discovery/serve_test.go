package discovery

import (
	"fmt"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/libp2p/go-libp2p/core/peer"
)

func TestAnswersPreferTheZone(t *testing.T) {
	d, err := New(Config{Keys: [][]byte{clusterKey(1)}, Listen: loopback(), Zone: "a"})
	if err != nil {
		t.Fatal(err)
	}
	key := blob("popular")
	announce := func(n int, zone string) {
		for i := range n {
			self := Member{ID: peer.ID(fmt.Sprint("member-", zone, i)), Zone: zone, Epoch: 1}
			req := wire.Request{Store: &wire.Store{Self: self, Add: hold(key)}}
			if _, err := d.answer(self.ID, req); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func(asker string) (near, far int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, p := range d.providers(time.Now(), key, asker, nil) {
			if p.Member.Zone == asker {
				near++
			} else {
				far++
			}
		}
		return near, far
	}
	announce(3, "b")
	announce(40, "a")
	for asker, want := range map[string][2]int{"a": {17, 3}, "b": {3, 17}, "": {0, 20}} {
		if near, far := count(asker); near != want[0] || far != want[1] {
			t.Errorf("for zone %q: %d near and %d far, want %v", asker, near, far, want)
		}
	}
	announce(40, "b")
	if near, far := count("a"); near != 15 || far != 5 {
		t.Errorf("%d near and %d far, want three in four near", near, far)
	}
}

func TestRecordsOnlyInOnesOwnName(t *testing.T) {
	d, err := New(Config{Keys: [][]byte{clusterKey(1)}, Listen: loopback()})
	if err != nil {
		t.Fatal(err)
	}
	victim := Member{ID: "victim", Epoch: 1}
	for _, req := range []wire.Request{
		{Store: &wire.Store{Self: victim, Add: hold(blob("a"))}},
		{Hello: &wire.Hello{Self: victim}},
	} {
		if _, err := d.answer("liar", req); err == nil {
			t.Errorf("%+v was accepted of somebody else", req)
		}
	}
	if len(d.Members()) != 0 || d.index.Len() != 0 {
		t.Error("a lie left traces")
	}
}

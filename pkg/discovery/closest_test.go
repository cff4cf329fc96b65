package discovery

import (
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

// TestTrackersView has a fleet in which everybody agrees on who is closest, and the closest one knows the holders.
func TestTrackersView(t *testing.T) {
	fleet := startFleet(t, 5, nil)
	key := TagKey("docker.io/library/nginx:1.27")
	fleet[3].Set([]Entry{{Key: key}}, nil)
	settle(t, fleet)
	want := fleet[0].Nearest(key, 3)
	ids := func(ms []Member) (ids []peer.ID) {
		for _, m := range ms {
			ids = append(ids, m.ID)
		}
		return ids
	}
	var first, second *testMember
	for _, m := range fleet {
		if got := m.Nearest(key, 3); !slices.Equal(ids(got), ids(want)) {
			t.Errorf("%s sees %v, not %v", m.Self().ID, ids(got), ids(want))
		}
		switch m.Self().ID {
		case want[0].ID:
			first = m
		case want[1].ID:
			second = m
		}
	}
	if closer := first.Closer(key, 3, nil); len(closer) != 0 {
		t.Errorf("somebody is closer than the closest: %v", ids(closer))
	}
	if closer := second.Closer(key, 3, nil); !slices.Equal(ids(closer), ids(want[:1])) {
		t.Errorf("the second refers to %v", ids(closer))
	}
	if closer := second.Closer(key, 3, []peer.ID{want[0].ID}); len(closer) != 0 {
		t.Errorf("the second refers to one that was excluded: %v", ids(closer))
	}
	for _, m := range fleet { // Those that keep the record have it; the others ask, as they joined just now.
		held, err := m.Holders(t.Context(), key, true)
		if err != nil || m != fleet[3] && !slices.Equal(ids(held), []peer.ID{fleet[3].Self().ID}) {
			t.Errorf("%s knows %v as holders, %v", m.Self().ID, ids(held), err)
		}
	}
	fleet[3].leave(t)
	eventually(t, "all know that it is gone", func() bool {
		return !slices.ContainsFunc(fleet[:3], func(m *testMember) bool {
			return !slices.Equal(m.Dead([]peer.ID{fleet[3].Self().ID, fleet[4].Self().ID}), []peer.ID{fleet[3].Self().ID})
		})
	})
}

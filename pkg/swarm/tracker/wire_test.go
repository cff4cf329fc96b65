package tracker

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	now   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	dgst  = digest.FromString("blob").String()
	value = &TagValue{
		Target:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 1234},
		Confirmed: now.Add(-1500 * time.Millisecond),
	}
)

func member(name string) discovery.Member {
	return discovery.Member{ID: peer.ID("\x00\x04" + (name + "    ")[:4]), PeerAPI: []string{"10.0.0.1:28501"}, Zone: "a"}
}

func TestQuestionTravels(t *testing.T) {
	var have swarm.Pieces
	have.Add(3)
	have.Add(700)
	for _, q := range []*question{
		{key: dgst, announce: swarm.Announce{Size: -1}},
		{key: dgst, final: true, wait: time.Second, renew: time.Minute, avoid: []peer.ID{member("x").ID, member("y").ID},
			announce: swarm.Announce{Size: 1 << 40, Have: have, Reading: []swarm.Lease{{Start: 7, End: -1}, {End: 9, From: "h"}}, Partners: 3, Fetched: 12, Upstream: swarm.Busy, Sequential: true, Stalled: true}},
		{key: dgst, announce: swarm.Announce{Size: 0, Complete: true}},
		{key: dgst, announce: swarm.Announce{Leaving: true, Upstream: swarm.Never}},
		{key: "docker.io/library/nginx:1.27", announce: swarm.Announce{Size: 1}, value: value, within: 3 * time.Second},
	} {
		q.from = member("me")
		q.announce.Member, q.announce.Zone = ID(q.from.ID), q.from.Zone
		here := newClock(now.Add(-time.Hour)).at(now)
		body, err := q.encode(now, &heardClock{*here.encode(), now})
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeQuestion(body, here)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if !bytes.Equal(got.announce.Have.Bytes(), q.announce.Have.Bytes()) {
			t.Errorf("%s: other pieces", body)
		}
		got.announce.Have = q.announce.Have
		if !reflect.DeepEqual(got, q) {
			t.Errorf("%s:\ngot  %+v\nsent %+v", body, got, q)
		}
	}
}

func TestQuestionsRefused(t *testing.T) {
	id := member("me").ID.String()
	from := `"from":{"id":"` + id + `","peerAPI":["10.0.0.1:28501"]}`
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `{"key":"` + dgst + `"}`,
		`{"key":"sha256:1",` + from + `}`,
		`{"key":"` + strings.Repeat("a/", 600) + `",` + from + `}`,
		`{"key":"` + dgst + `","from":{"id":"` + id + `"}}`,
		`{"key":"` + dgst + `","from":{"id":"` + id + `","peerAPI":["nowhere"]}}`,
		`{"key":"` + dgst + `","from":{"id":"you","peerAPI":["10.0.0.1:28501"]}}`,
		`{"key":"` + dgst + `",` + from + `,"waitMs":-1}`,
		`{"key":"` + dgst + `",` + from + `,"upstream":9}`,
		`{"key":"` + dgst + `",` + from + `,"fetched":-1}`,
		`{"key":"` + dgst + `",` + from + `,"partners":-1}`,
		`{"key":"` + dgst + `",` + from + `,"reading":[{"start":2,"end":1}]}`,
		`{"key":"` + dgst + `",` + from + `,"reading":[` + strings.Repeat(`{"start":1,"end":2},`, 16) + `{"start":1,"end":2}]}`,
		`{"key":"` + dgst + `",` + from + `,"size":"1"}`,
		`{"key":"` + dgst + `",` + from + `,"have":"%"}`,
		`{"key":"` + dgst + `",` + from + `,"avoid":["you"]}`,
		`{"key":"` + dgst + `",` + from + `,"tag":{"digest":"` + dgst + `"}}`,
		`{"key":"r.io/a:b",` + from + `,"tag":{"digest":"x"}}`,
		`{"key":"r.io/a:b",` + from + `,"tag":{"digest":"` + dgst + `","ageMs":-1}}`,
		`{"key":"` + dgst + `",` + from + `}{}`,
	} {
		if q, err := decodeQuestion([]byte(body), clock{now: now}); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %+v, %v", body, q, err)
		}
	}
	// A later version may say more.
	if _, err := decodeQuestion([]byte(`{"key":"`+dgst+`",`+from+`,"later":1}`), clock{now: now}); err != nil {
		t.Error(err)
	}
}

func TestAnswerTravels(t *testing.T) {
	x, y := member("x"), member("y")
	a := &Answer{
		Assignment: swarm.Assignment{
			Size: 99, Holders: []swarm.ID{ID(x.ID)}, Neighbours: []swarm.Neighbour{{Member: ID(y.ID), Zone: "a"}},
			Leases: []swarm.Lease{{Start: 0, End: -1}, {Start: 5, End: 9, From: ID(x.ID)}}, Wait: true, Again: time.Second,
		},
		Members: map[swarm.ID]discovery.Member{ID(x.ID): x, ID(y.ID): y}, Value: value,
	}
	body, err := a.encode(clock{began: now, now: now})
	if err != nil {
		t.Fatal(err)
	}
	got, closer, err := decodeAnswer(body, now)
	if err != nil || closer != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%s:\ngot  %+v, %v\nsent %+v", body, got, err, a)
	}
	// Whose address is not told can't be used, and is not named.
	delete(a.Members, ID(x.ID))
	if body, err = a.encode(clock{began: now, now: now}); err != nil {
		t.Fatal(err)
	}
	if got, _, err = decodeAnswer(body, now); !errors.Is(err, errMalformed) {
		t.Errorf("%+v, %v", got, err)
	}
	body, err = (&referral{[]discovery.Member{x, y}}).encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, closer, err = decodeAnswer(body, now); err != nil || !reflect.DeepEqual(closer, []discovery.Member{x, y}) {
		t.Errorf("%+v, %v", closer, err)
	}
}

package tracker

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	kioo "github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// announced is a well-formed announce as it travels, changed by a test.
func announced(change func(w *wireRequest)) []byte {
	w := wireRequest{Key: dgst, From: encodeMember(member("me")), Size: 100 << 20}
	change(&w)
	body, err := json.Marshal(w)
	if err != nil {
		panic(err)
	}
	return body
}

// answered is a well-formed answer as it travels, changed by a test.
func answered(change func(w *wireResponse)) []byte {
	w := wireResponse{Size: 100 << 20}
	change(&w)
	body, err := json.Marshal(w)
	if err != nil {
		panic(err)
	}
	return body
}

const tagName = "docker.io/library/nginx:1.27"

// TestAnnouncesOutsideOfTheirDomain has members say what they can't mean, in messages that can be read.
func TestAnnouncesOutsideOfTheirDomain(t *testing.T) {
	tagged := func(change func(tag *wireTag)) func(*wireRequest) {
		return func(w *wireRequest) {
			w.Key, w.Size = tagName, 1
			w.Tag = &wireTag{MediaType: "application/json", Digest: dgst, Size: 7}
			change(w.Tag)
		}
	}
	for name, test := range map[string]struct {
		kind   kioo.Kind
		change func(w *wireRequest)
	}{
		"size below none":       {kioo.BadSize, func(w *wireRequest) { w.Size = -2 }},
		"least size":            {kioo.BadSize, func(w *wireRequest) { w.Size = math.MinInt64 }},
		"size beyond all":       {kioo.BadSize, func(w *wireRequest) { w.Size = swarm.MaxSize + 1 }},
		"greatest size":         {kioo.BadSize, func(w *wireRequest) { w.Size = math.MaxInt64 }},
		"fetched too much":      {kioo.BadSize, func(w *wireRequest) { w.Fetched = 1 << 40 }},
		"fetched beyond all":    {kioo.BadSize, func(w *wireRequest) { w.Size, w.Fetched = -1, math.MaxInt64 }},
		"piece beyond":          {kioo.BadPiece, func(w *wireRequest) { w.Have = append(make([]byte, 1000), 1) }},
		"piece of no size":      {kioo.BadPiece, func(w *wireRequest) { w.Size, w.Have = -1, []byte{1} }},
		"too many pieces":       {kioo.BadPiece, func(w *wireRequest) { w.Have = make([]byte, 1<<13+1) }},
		"lease beyond":          {kioo.BadRange, func(w *wireRequest) { w.Reading = wireLeases{{Start: 0, End: 100<<20 + 1}} }},
		"lease from beyond":     {kioo.BadRange, func(w *wireRequest) { w.Reading = wireLeases{{Start: 100<<20 + 1, End: -1}} }},
		"lease to nowhere":      {kioo.BadRange, func(w *wireRequest) { w.Reading = wireLeases{{Start: 0, End: math.MinInt64}} }},
		"lease that overflows":  {kioo.BadRange, func(w *wireRequest) { w.Size, w.Reading = -1, wireLeases{{Start: math.MaxInt64, End: -1}} }},
		"long wait":             {kioo.BadAge, func(w *wireRequest) { w.WaitMS = math.MaxInt64 }},
		"long renewal":          {kioo.BadAge, func(w *wireRequest) { w.RenewMS = math.MaxInt64 }},
		"long within":           {kioo.BadAge, func(w *wireRequest) { w.WithinMS = math.MaxInt64 / 1000 }},
		"many partners":         {kioo.BadCount, func(w *wireRequest) { w.Partners = math.MaxInt32 }},
		"long zone":             {kioo.BadMember, func(w *wireRequest) { w.From.Zone = strings.Repeat("z", 4096) }},
		"many addresses":        {kioo.BadMember, func(w *wireRequest) { w.From.PeerAPI = slices.Repeat([]string{"10.0.0.1:1"}, 100) }},
		"long name of a holder": {kioo.BadMember, func(w *wireRequest) { w.Reading = wireLeases{{End: 1, From: strings.Repeat("x", 4096)}} }},
		"key with a newline":    {kioo.BadMessage, func(w *wireRequest) { w.Key = "r.io/a:b\nlog" }},
		"key for whom":          {kioo.BadMessage, func(w *wireRequest) { w.Key += "@../x" }},
		"tag with a size":       {kioo.BadSize, tagged(func(tag *wireTag) { tag.Size = 1 << 40 })},
		"tag below a size":      {kioo.BadSize, tagged(func(tag *wireTag) { tag.Size = -1 })},
		"tag of the future":     {kioo.BadAge, tagged(func(tag *wireTag) { tag.AgeMS = -1 })},
		"tag of all ages":       {kioo.BadAge, tagged(func(tag *wireTag) { tag.AgeMS = math.MaxInt64 })},
		"tag of no type":        {kioo.BadType, tagged(func(tag *wireTag) { tag.MediaType = "text\r\nx" })},
		"tag of a long type":    {kioo.BadType, tagged(func(tag *wireTag) { tag.MediaType = "a/" + strings.Repeat("b", 1000) })},
		"tag of no digest":      {kioo.BadDigest, tagged(func(tag *wireTag) { tag.Digest = "sha256:0" })},
	} {
		q, err := decodeQuestion(announced(test.change), clock{now: now})
		var lie *kioo.Violation
		if !errors.As(err, &lie) || lie.Kind != test.kind || !errors.Is(err, errMalformed) {
			t.Errorf("%s: %+v, %v", name, q, err)
		}
	}
	if _, err := decodeQuestion(announced(tagged(func(*wireTag) {})), clock{now: now}); err != nil {
		t.Error(err)
	}
}

// TestAnswersOutsideOfTheirDomain has a tracker say what it can't mean.
func TestAnswersOutsideOfTheirDomain(t *testing.T) {
	x := member("x")
	id := x.ID.String()
	introduced := func(w *wireResponse) { w.Members = []wireMember{encodeMember(x)} }
	for name, test := range map[string]struct {
		kind   kioo.Kind
		change func(w *wireResponse)
	}{
		"another size":          {kioo.BadSize, func(w *wireResponse) { w.Size = 99 }},
		"size beyond all":       {kioo.BadSize, func(w *wireResponse) { w.Size = math.MaxInt64 }},
		"size below none":       {kioo.BadSize, func(w *wireResponse) { w.Size = -5 }},
		"lease beyond":          {kioo.BadRange, func(w *wireResponse) { w.Leases = wireLeases{{Start: 0, End: 1 << 40}} }},
		"lease from beyond":     {kioo.BadRange, func(w *wireResponse) { w.Leases = wireLeases{{Start: 1 << 40, End: -1}} }},
		"lease below":           {kioo.BadRange, func(w *wireResponse) { w.Leases = wireLeases{{Start: -1, End: 5}} }},
		"lease backwards":       {kioo.BadRange, func(w *wireResponse) { w.Leases = wireLeases{{Start: 9, End: 5}} }},
		"many leases":           {kioo.BadCount, func(w *wireResponse) { w.Leases = slices.Repeat(wireLeases{{Start: 1, End: 2}}, 65) }},
		"many holders":          {kioo.BadCount, func(w *wireResponse) { introduced(w); w.Holders = slices.Repeat([]string{id}, 65) }},
		"lease from a stranger": {kioo.BadMember, func(w *wireResponse) { w.Leases = wireLeases{{End: 5, From: id}} }},
		"strange holder":        {kioo.BadMember, func(w *wireResponse) { w.Holders = []string{id} }},
		"strange neighbour":     {kioo.BadMember, func(w *wireResponse) { w.Neighbours = []string{id} }},
		"ourselves":             {kioo.BadMember, func(w *wireResponse) { w.Members = []wireMember{encodeMember(member("me"))} }},
		"again in an hour":      {kioo.BadAge, func(w *wireResponse) { w.AgainMS = 3600_000 }},
		"again before":          {kioo.BadAge, func(w *wireResponse) { w.AgainMS = -1 }},
		"a digest that means":   {kioo.BadMessage, func(w *wireResponse) { w.Tag = &wireTag{Digest: dgst} }},
	} {
		q := &question{key: dgst, from: member("me"), announce: swarm.Announce{Size: 100 << 20}}
		a, _, err := decodeAnswer(answered(test.change), now)
		if err == nil {
			err = a.check(q)
		}
		var lie *kioo.Violation
		if !errors.As(err, &lie) || lie.Kind != test.kind {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// TestWordsOnlyGetOlder has ten members, each with a clock of its own, pass a registry's word on for hours, now by
// announces and answers, now by asking each other: nobody ever takes it for younger than it is.
func TestWordsOnlyGetOlder(t *testing.T) {
	for way := range 5 { // One alone, each of them, and all in turn.
		for _, quick := range []bool{false, true} {
			circulate(t, quick, func(hop int) int {
				if way < 4 {
					return way
				}
				return hop % 4
			})
		}
	}
}

func circulate(t *testing.T, quick bool, way func(hop int) int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var elapsed time.Duration // Of the time that is true.
	pass := func(most time.Duration) {
		if quick {
			most = 50 * time.Microsecond
		}
		elapsed += time.Duration(r.Int64N(int64(most)))
	}
	type node struct {
		offset time.Duration
		clock  clock
	}
	nodes := make([]*node, 10)
	at := func(n *node) time.Time { return epoch.Add(elapsed + n.offset) }
	for i := range nodes {
		nodes[i] = &node{offset: time.Duration(r.Int64N(int64(time.Hour))) - 30*time.Minute}
		nodes[i].clock = newClock(at(nodes[i]))
	}
	holder := nodes[0]
	over := time.Duration(0)
	word := TagValue{Target: value.Target, Confirmed: at(holder)} // Said when nothing had elapsed.
	for hop := 0; elapsed < 5*time.Hour && hop < 20000; hop++ {
		pass(2 * time.Second)
		to := nodes[r.IntN(len(nodes))]
		if to == holder {
			continue
		}
		switch way(hop) {
		case 0, 1: // It is announced to a tracker, whose clock was heard a while ago, or not.
			var theirs *heardClock
			if way(hop) == 0 {
				shown := to.clock.at(at(to)).encode()
				pass(time.Second)
				theirs = &heardClock{*shown, at(holder)}
				pass(10 * time.Second)
			}
			q := &question{key: tagName, from: member("me"), announce: swarm.Announce{Size: 1}, value: &word}
			body, err := q.encode(at(holder), theirs)
			if err != nil {
				t.Fatal(err)
			}
			pass(arriveWithin)
			if q, err = decodeQuestion(body, to.clock.at(at(to))); err != nil {
				t.Fatal(err)
			}
			word = *q.value
		case 2: // It is the answer of a tracker.
			asked := at(to)
			pass(time.Second)
			body, err := (&Answer{Value: &word}).encode(holder.clock.at(at(holder)))
			if err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
			a, _, err := decodeAnswer(body, asked)
			if err != nil {
				t.Fatal(err)
			}
			word = *a.Value
		default: // It is the answer of a member.
			asked := at(to)
			pass(time.Second)
			ms := kioo.EncodeAge(at(holder), word.Confirmed)
			pass(time.Second)
			said, err := kioo.DecodeAge(ms, asked)
			if err != nil {
				t.Fatal(err)
			}
			word.Confirmed = said
		}
		holder = to
		age := at(holder).Sub(word.Confirmed)
		if age-elapsed < over { // No hop may give back what others added.
			t.Fatalf("after hop %d by way %d the word is taken for %v old, and is %v; before it was %v over that", hop, way(hop), age, elapsed, over)
		}
		over = age - elapsed
	}
}

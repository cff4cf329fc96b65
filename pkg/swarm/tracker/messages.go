package tracker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	kioo "github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// place gives the key that decides who is the tracker of something: of a digest, or of a tag's full name.
func place(key string) discovery.Key {
	if isTag(key) {
		return discovery.TagKey(key)
	}
	dgst, _, _ := strings.Cut(key, apart)
	return discovery.DigestKey(digest.Digest(dgst)) // checkKey has seen it.
}

// apart separates a key from those that it is for.
const apart = "@"

// Apart gives the key of something for members of one scope alone: they share nothing with others, which may not have
// what they have. The empty scope is everybody's. A blob has one tracker for all scopes.
func Apart(key, scope string) string {
	if scope == "" {
		return key
	}
	sum := sha256.Sum256([]byte(scope))
	return key + apart + hex.EncodeToString(sum[:8])
}

// isTag tells a tag's full name, which has a registry and a repository, from a digest.
func isTag(key string) bool { return strings.Contains(key, "/") }

// DigestOf gives the digest that a key is of.
func DigestOf(key string) (digest.Digest, error) {
	dgst, _, _ := strings.Cut(key, apart)
	return reference.ParseDigest(dgst)
}

// encode gives what is sent to a member whose clock was heard, if it was.
func (q *question) encode(now time.Time, theirs *heardClock) ([]byte, error) {
	a := &q.announce
	w := wireRequest{
		Key: q.key, From: encodeMember(q.from), Final: q.final, WaitMS: q.wait.Milliseconds(), RenewMS: q.renew.Milliseconds(),
		Size: a.Size, Have: a.Have.Bytes(), Complete: a.Complete, Reading: encodeLeases(a.Reading), Partners: a.Partners,
		Fetched: a.Fetched, Upstream: uint8(a.Upstream), Sequential: a.Sequential, Stalled: a.Stalled, Waiting: a.Waiting,
		Leaving: a.Leaving, Tag: encodeTag(q.value, now), WithinMS: q.within.Milliseconds(),
	}
	if w.Tag != nil {
		w.Tag.Clock = theirs.when(q.value.Confirmed)
	}
	for _, id := range q.avoid {
		w.Avoid = append(w.Avoid, id.String())
	}
	return json.Marshal(w)
}

func decodeQuestion(body []byte, here clock) (*question, error) {
	var w wireRequest
	if err := decodeStrictly(body, &w); err != nil {
		return nil, err
	}
	q, err := w.decode(here)
	if err != nil {
		return nil, err
	}
	return q, q.check()
}

func (w *wireRequest) decode(here clock) (q *question, err error) {
	q = &question{
		key: w.Key, final: w.Final,
		announce: swarm.Announce{
			Size: w.Size, Complete: w.Complete, Partners: w.Partners, Fetched: w.Fetched,
			Upstream: swarm.Upstream(w.Upstream), Sequential: w.Sequential, Stalled: w.Stalled, Waiting: w.Waiting, Leaving: w.Leaving,
		},
	}
	if err := errors.Join(checkKey(w.Key), checkSize(w.Size), checkMS("wait", w.WaitMS, maxAge),
		checkMS("renew", w.RenewMS, maxAge), checkMS("within", w.WithinMS, maxAge)); err != nil {
		return nil, err
	}
	q.wait = min(time.Duration(w.WaitMS)*time.Millisecond, maxWait)
	q.renew, q.within = time.Duration(w.RenewMS)*time.Millisecond, time.Duration(w.WithinMS)*time.Millisecond
	if q.from, err = w.From.decode(); err != nil {
		return nil, err
	}
	q.announce.Member, q.announce.Zone = ID(q.from.ID), q.from.Zone
	if q.value, err = w.Tag.decode(here.said); err != nil {
		return nil, err
	}
	if q.announce.Have, err = swarm.FromBytes(w.Have); err != nil {
		return nil, bad(kioo.BadPiece, "%v", err)
	}
	if q.announce.Reading, err = w.Reading.decode(); err != nil {
		return nil, err
	}
	for _, text := range w.Avoid {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, bad(kioo.BadMember, "identity %.80q: %v", text, err)
		}
		q.avoid = append(q.avoid, id)
	}
	return q, nil
}

func (a *Answer) encode(here clock) ([]byte, error) {
	w := wireResponse{
		Size: a.Size, NoSource: a.NoSource, Open: a.Open, Wait: a.Wait, AgainMS: a.Again.Milliseconds(),
		Tag: encodeTag(a.Value, here.now), Leases: encodeLeases(a.Leases), Clock: here.encode(),
	}
	for _, m := range a.Members {
		w.Members = append(w.Members, encodeMember(m))
	}
	for _, id := range a.Holders {
		w.Holders = append(w.Holders, string(id))
	}
	for _, n := range a.Neighbours {
		w.Neighbours = append(w.Neighbours, string(n.Member))
	}
	return json.Marshal(w)
}

// decodeAnswer reads the answer to what was asked at a time, or the members that it refers to.
func decodeAnswer(body []byte, asked time.Time) (*Answer, []discovery.Member, error) {
	var w wireResponse
	if err := decodeStrictly(body, &w); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(checkSize(w.Size), checkMS("again", w.AgainMS, maxAgain)); err != nil {
		return nil, nil, err
	}
	a := &Answer{Members: map[swarm.ID]discovery.Member{}}
	a.Size, a.NoSource, a.Open, a.Wait = w.Size, w.NoSource, w.Open, w.Wait
	a.Again = time.Duration(w.AgainMS) * time.Millisecond
	if w.Clock != nil {
		a.clock = *w.Clock
	}
	var err error
	if a.Value, err = w.Tag.decode(func(age int64, _ *wireClock) (time.Time, error) { return kioo.DecodeAge(age, asked) }); err != nil {
		return nil, nil, err
	}
	closer, err := a.decodeNames(&w)
	return a, closer, err
}

// decodeNames reads who is named in an answer.
func (a *Answer) decodeNames(w *wireResponse) (closer []discovery.Member, err error) {
	for _, c := range w.Closer {
		m, err := c.decode()
		if err != nil {
			return nil, err
		}
		closer = append(closer, m)
	}
	for _, c := range w.Members {
		m, err := c.decode()
		if err != nil {
			return nil, err
		}
		a.Members[ID(m.ID)] = m
	}
	for _, id := range w.Holders {
		a.Holders = append(a.Holders, swarm.ID(id))
	}
	for _, id := range w.Neighbours {
		a.Neighbours = append(a.Neighbours, swarm.Neighbour{Member: swarm.ID(id), Zone: a.Members[swarm.ID(id)].Zone})
	}
	if a.Leases, err = w.Leases.decode(); err != nil {
		return nil, err
	}
	return closer, a.checkNames(closer)
}

func (r *referral) encode() ([]byte, error) {
	w := wireResponse{Size: -1} // Of a referral, nothing else is looked at.
	for _, m := range r.closer {
		w.Closer = append(w.Closer, encodeMember(m))
	}
	return json.Marshal(w)
}

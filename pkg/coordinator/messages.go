package coordinator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// place gives the key that decides who coordinates something: of a digest, or of a tag's full name.
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
// what they have. The empty scope is everybody's. Who coordinates a blob does so for all scopes.
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

func checkKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("%w: key of %d bytes", errMalformed, len(key))
	}
	if isTag(key) {
		return nil // It is opaque here.
	}
	if _, err := DigestOf(key); err != nil {
		return fmt.Errorf("%w: key: %w", errMalformed, err)
	}
	return nil
}

func (q *question) encode(now time.Time) ([]byte, error) {
	a := &q.announce
	w := wireRequest{
		Key: q.key, From: encodeMember(q.from), Final: q.final, WaitMS: q.wait.Milliseconds(), RenewMS: q.renew.Milliseconds(),
		Size: a.Size, Have: a.Have.Bytes(), Complete: a.Complete, Reading: encodeLeases(a.Reading), Partners: a.Partners,
		Fetched: a.Fetched, Upstream: uint8(a.Upstream), Sequential: a.Sequential, Stalled: a.Stalled, Waiting: a.Waiting,
		Leaving: a.Leaving, Tag: encodeTag(q.value, now), WithinMS: q.within.Milliseconds(),
	}
	for _, id := range q.avoid {
		w.Avoid = append(w.Avoid, id.String())
	}
	return json.Marshal(w)
}

func decodeQuestion(body []byte, now time.Time) (*question, error) {
	var w wireRequest
	if err := decodeStrictly(body, &w); err != nil {
		return nil, err
	}
	if err := checkKey(w.Key); err != nil {
		return nil, err
	}
	from, err := w.From.decode()
	if err != nil {
		return nil, err
	}
	value, err := w.Tag.decode(now)
	if err != nil {
		return nil, err
	}
	switch {
	case w.WaitMS < 0 || w.RenewMS < 0 || w.WithinMS < 0 || max(w.RenewMS, w.WithinMS) > maxAge.Milliseconds():
		err = fmt.Errorf("%w: time", errMalformed)
	case w.Fetched < 0 || w.Partners < 0 || len(w.Avoid) > maxAvoid || len(w.Reading) > maxReading:
		err = fmt.Errorf("%w: %d bytes fetched, %d partners, %d members to avoid, %d leases", errMalformed, w.Fetched, w.Partners,
			len(w.Avoid), len(w.Reading))
	case w.Upstream > uint8(swarm.Never):
		err = fmt.Errorf("%w: word of upstream %d", errMalformed, w.Upstream)
	case value != nil && !isTag(w.Key):
		err = fmt.Errorf("%w: a digest with a meaning", errMalformed)
	}
	if err != nil {
		return nil, err
	}
	q := &question{
		key: w.Key, from: from, final: w.Final, value: value,
		wait:   min(time.Duration(w.WaitMS)*time.Millisecond, maxWait),
		renew:  time.Duration(w.RenewMS) * time.Millisecond,
		within: time.Duration(w.WithinMS) * time.Millisecond,
		announce: swarm.Announce{
			Member: ID(from.ID), Zone: from.Zone, Size: max(w.Size, -1), Complete: w.Complete,
			Partners: w.Partners, Fetched: w.Fetched,
			Upstream: swarm.Upstream(w.Upstream), Sequential: w.Sequential, Stalled: w.Stalled, Waiting: w.Waiting, Leaving: w.Leaving,
		},
	}
	if q.announce.Have, err = swarm.FromBytes(w.Have); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if q.announce.Reading, err = w.Reading.decode(); err != nil {
		return nil, err
	}
	for _, text := range w.Avoid {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, fmt.Errorf("%w: identity %.80q: %w", errMalformed, text, err)
		}
		q.avoid = append(q.avoid, id)
	}
	return q, nil
}

func (a *Answer) encode(now time.Time) ([]byte, error) {
	w := wireResponse{
		Size: a.Size, NoSource: a.NoSource, Open: a.Open, Wait: a.Wait, AgainMS: a.Again.Milliseconds(), Tag: encodeTag(a.Value, now),
		Leases: encodeLeases(a.Leases),
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

// decodeAnswer reads an answer, or the members that it refers to.
func decodeAnswer(body []byte, now time.Time) (*Answer, []discovery.Member, error) {
	var w wireResponse
	if err := decodeStrictly(body, &w); err != nil {
		return nil, nil, err
	}
	if max(len(w.Members), len(w.Holders), len(w.Neighbours), len(w.Closer)) > maxNamed || len(w.Leases) > maxLeases {
		return nil, nil, fmt.Errorf("%w: too many members or leases", errMalformed)
	}
	var closer []discovery.Member
	for _, c := range w.Closer {
		m, err := c.decode()
		if err != nil {
			return nil, nil, err
		}
		closer = append(closer, m)
	}
	a := &Answer{Members: map[swarm.ID]discovery.Member{}}
	for _, c := range w.Members {
		m, err := c.decode()
		if err != nil {
			return nil, nil, err
		}
		a.Members[ID(m.ID)] = m
	}
	var err error
	if a.Value, err = w.Tag.decode(now); err != nil {
		return nil, nil, err
	}
	a.Size, a.NoSource, a.Open, a.Wait = max(w.Size, -1), w.NoSource, w.Open, w.Wait
	a.Again = time.Duration(min(max(w.AgainMS, 0), maxAge.Milliseconds())) * time.Millisecond
	return a, closer, a.decodeLists(&w)
}

// decodeLists reads the lists of an answer whose Members are known already: all others are left out, for who has no
// address is of no use.
func (a *Answer) decodeLists(w *wireResponse) error {
	for _, id := range w.Holders {
		if _, ok := a.Members[swarm.ID(id)]; ok {
			a.Holders = append(a.Holders, swarm.ID(id))
		}
	}
	for _, id := range w.Neighbours {
		if m, ok := a.Members[swarm.ID(id)]; ok {
			a.Neighbours = append(a.Neighbours, swarm.Neighbour{Member: swarm.ID(id), Zone: m.Zone})
		}
	}
	leases, err := w.Leases.decode()
	for _, l := range leases {
		if _, ok := a.Members[l.From]; ok || l.From == "" {
			a.Leases = append(a.Leases, l)
		}
	}
	return err
}

func (r *referral) encode() ([]byte, error) {
	w := wireResponse{Size: -1}
	for _, m := range r.closer {
		w.Closer = append(w.Closer, encodeMember(m))
	}
	return json.Marshal(w)
}

package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
)

const mib = 1 << 20

// fill has an owner bring blobs of a MiB each.
func fill(t *testing.T, c *cache.Cache, owner content.Owner, seed uint64, n int) []digest.Digest {
	t.Helper()
	var all []digest.Digest
	for i := range n {
		body := contenttest.Body(seed+uint64(i), mib)
		if err := c.Put(t.Context(), owner, descriptor("", body), body); err != nil {
			t.Fatal(err)
		}
		all = append(all, digest.FromBytes(body))
	}
	return all
}

func countHeld(t *testing.T, c *cache.Cache, all []digest.Digest) (n int) {
	t.Helper()
	for _, dgst := range all {
		if holds(t, c, dgst) {
			n++
		}
	}
	return n
}

// TestAnnouncedSizeEvictsNothing has a registry announce most of the cache's size and send a byte, again and again.
func TestAnnouncedSizeEvictsNothing(t *testing.T) {
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 32 * mib, SpoolBytes: 32 * mib})
	held := fill(t, c, "victim.example", 1, 31)
	for i, size := range []int64{31 * mib, 24 * mib, 23 * mib, 12 * mib} {
		going, err := c.Create("evil.example", digest.FromString(fmt.Sprint(i)), size)
		if err != nil {
			if !errors.Is(err, cache.ErrNoSpace) {
				t.Errorf("%d bytes: %v", size, err)
			}
			continue
		}
		defer going.Discard()
		if _, err := going.WriteAt([]byte("x"), 0); err != nil {
			t.Errorf("the first of %d bytes: %v", size, err)
		}
	}
	// Each has the room of a step, and of each no more.
	if n := countHeld(t, c, held); n < 31-4 {
		t.Errorf("of 31 blobs, %d are held after four bytes of others came", n)
	}
	body := contenttest.Body(1000, 6*mib)
	if err := c.Put(t.Context(), "victim.example", descriptor("", body), body); err != nil {
		t.Errorf("what others announce keeps a blob out: %v", err)
	}
}

// TestRoomInAnyOrder has many blobs arrive at once, in pieces that come in any order, while room is short: what is
// committed is right, the bounds hold, and what finds no room says so.
func TestRoomInAnyOrder(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, cache.Config{Dir: dir, MaxBytes: 24 * mib, SpoolBytes: 8 * mib})
	var workers sync.WaitGroup
	for w := range 6 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 5))
			for i := range 6 {
				body := contenttest.Body(uint64(100*w+i), 3*mib+random.IntN(4*mib))
				if err := arrive(t, c, content.Owner(fmt.Sprint(w%3)), body, random); err != nil && !errors.Is(err, cache.ErrNoSpace) {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	report, err := cache.Verify(t.Context(), dir, nil)
	if err != nil || len(report.Dropped) > 0 || report.Bytes > 24*mib || report.InFlight > 0 || report.Checked == 0 {
		t.Errorf("Verify gave %+v, %v", report, err)
	}
}

// arrive writes a blob in pieces of random order and has it committed.
func arrive(t *testing.T, c *cache.Cache, owner content.Owner, body []byte, random *rand.Rand) error {
	const piece = 300_000
	i, err := c.Create(owner, digest.FromBytes(body), int64(len(body)))
	if err != nil {
		return err
	}
	defer i.Discard()
	for _, n := range random.Perm((len(body) + piece - 1) / piece) {
		if _, err := i.WriteAt(body[n*piece:min(n*piece+piece, len(body))], int64(n*piece)); err != nil {
			return err
		}
	}
	file, err := i.Reader()
	if err != nil {
		return err
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, body) {
		t.Errorf("what arrived reads differently: %v", err)
	}
	return i.Commit(t.Context(), "")
}

// TestNoRoomMidway has all that is held begin to be read while a blob arrives: it goes on in the spool's room, is not
// kept, and its bytes are all there.
func TestNoRoomMidway(t *testing.T) {
	c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 16 * mib, SpoolBytes: 16 * mib})
	held := fill(t, c, "", 1, 14)
	body := contenttest.Body(100, 8*mib)
	i, err := c.Create("", digest.FromBytes(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Discard()
	if _, err := i.WriteAt(body[:3*mib], 0); err != nil {
		t.Fatal(err)
	}
	for _, dgst := range held {
		if b, err := c.Open(t.Context(), dgst); err == nil {
			defer b.Close()
		}
	}
	if _, err := i.WriteAt(body[3*mib:], 3*mib); err != nil {
		t.Fatalf("the spool has room, and yet: %v", err)
	}
	checkReader(t, i, body)
	if err := i.Commit(t.Context(), ""); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("Commit gave %v, want ErrNoSpace", err)
	}
	if countHeld(t, c, held) < 13 {
		t.Error("what is being read was evicted")
	}
}

// TestSpoolIsShared has a registry hold on to the spool's room: others get some of it.
func TestSpoolIsShared(t *testing.T) {
	c := openCache(t, cache.Config{Dir: t.TempDir(), SpoolBytes: 32 * mib})
	var first error
	for i := range 100 {
		going, err := c.Create("evil.example", digest.FromString(fmt.Sprint(i)), mib)
		if err != nil {
			first = err
			break
		}
		defer going.Discard()
	}
	if !errors.Is(first, cache.ErrNoSpace) {
		t.Errorf("one registry took all: %v", first)
	}
	good, err := c.Create("good.example", digest.FromString("good"), 4*mib)
	if err != nil {
		t.Fatal(err)
	}
	defer good.Discard()
	if _, err := good.WriteAt(make([]byte, 4*mib), 0); err != nil {
		t.Error(err)
	}
}

// TestFloodOfOneRegistry has a registry bring ten times what the cache holds, once and more often: what others brought
// stays.
func TestFloodOfOneRegistry(t *testing.T) {
	for _, often := range []bool{false, true} {
		now := time.Unix(0, 0)
		c := openCache(t, cache.Config{Dir: t.TempDir(), MaxBytes: 40 * mib, Now: func() time.Time { return now }})
		held := fill(t, c, "victim.example", 1, 10)
		for i := range 100 {
			flood := fill(t, c, "evil.example", 1000+uint64(i), 1)
			if often {
				now = now.Add(time.Hour)
				c.Touch(flood[0])
			}
		}
		if n := countHeld(t, c, held); n != 10 {
			t.Errorf("asked for often: %v: %d of 10 blobs are left", often, n)
		}
	}
}

// TestRestartKeepsTheOrder closes a cache and opens it again, before more comes than it can hold.
func TestRestartKeepsTheOrder(t *testing.T) {
	now := time.Unix(0, 0)
	cfg := cache.Config{Dir: t.TempDir(), MaxBytes: 20 * mib, Now: func() time.Time { return now }}
	c := openCache(t, cfg)
	often := fill(t, c, "a.example", 1, 5)
	now = now.Add(time.Hour)
	for _, dgst := range often {
		c.Touch(dgst)
	}
	other := fill(t, c, "b.example", 100, 4)
	closeCache(t, c)
	c = openCache(t, cfg)
	fill(t, c, "c.example", 1000, 60)
	if n := countHeld(t, c, often); n != 5 {
		t.Errorf("%d of 5 blobs that were asked for often are left", n)
	}
	if n := countHeld(t, c, other); n < 3 { // Half of a third of 20.
		t.Errorf("%d of 4 blobs of another registry are left", n)
	}
}

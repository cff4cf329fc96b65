package cache_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/content/contenttest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// crashBlobs is how many different blobs children work with; they have some 10 MB together.
const crashBlobs = 200

// crashBody is the blob of a seed, so that parent and child know the same ones.
func crashBody(seed uint64) []byte {
	return contenttest.Body(seed, int(seed*7919%100_000))
}

// crashTarget is what the tag of some name means in its version.
func crashTarget(version int) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(strconv.Itoa(version)), Size: int64(version),
	}
}

// crashChild changes the cache until it is killed. It says what it begins and what is done, a line each.
func crashChild(dir string, maxBytes int64) error {
	c, err := cache.Open(cache.Config{Dir: dir, MaxBytes: maxBytes})
	if err != nil {
		return err
	}
	fmt.Println("open")
	ctx := context.Background()
	errs := make(chan error)
	for worker := range 3 {
		go func() {
			random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(worker)))
			for n := 1; ; n++ {
				if err := crashStep(ctx, c, random, worker, n); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

func crashStep(ctx context.Context, c *cache.Cache, random *rand.Rand, worker, n int) error {
	base := int(time.Now().UnixMilli() & 0xffffffff)
	switch random.IntN(4) {
	case 0:
		fmt.Printf("tagging %d %d\n", worker, base+n)
		tag := content.Tag{Target: crashTarget(base + n), Confirmed: time.Now()}
		if err := c.SetTag(ctx, tagRef("t"+strconv.Itoa(worker)), tag); err != nil {
			return err
		}
		fmt.Printf("tagged %d %d\n", worker, base+n)
	case 1:
		if b, err := c.Open(ctx, digest.FromBytes(crashBody(random.Uint64N(crashBlobs)))); err == nil {
			return b.Close()
		}
	default:
		seed := random.Uint64N(crashBlobs)
		body := crashBody(seed)
		i, err := c.Create("", digest.FromBytes(body), int64(len(body)))
		if err != nil {
			return err
		}
		if _, err := i.WriteAt(body, 0); err != nil {
			return err
		}
		if random.IntN(4) > 0 {
			if err := i.Commit(ctx, "application/x-"+strconv.FormatUint(seed, 10)); err != nil {
				return err
			}
			fmt.Printf("held %d\n", seed)
		}
		return i.Discard()
	}
	return nil
}

// acknowledged is what children said.
type acknowledged struct {
	held  map[uint64]bool
	began map[int]map[int]bool // By tag, the versions that may have been written since the last that surely was.
	done  map[int]int
}

func (a *acknowledged) read(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	number := func(i int) int {
		n, err := strconv.Atoi(words[i])
		if err != nil {
			t.Fatalf("child said %q", line)
		}
		return n
	}
	switch words[0] {
	case "held":
		a.held[uint64(number(1))] = true
	case "tagging":
		tag := number(1)
		if a.began[tag] == nil {
			a.began[tag] = make(map[int]bool)
		}
		a.began[tag][number(2)] = true
	case "tagged":
		a.done[number(1)] = number(2)
		a.began[number(1)] = nil
	}
}

// TestKill kills a process that changes the cache, again and again, and looks each time what is left.
func TestKill(t *testing.T) {
	for _, child := range []string{"crash", "crash-evicting"} {
		t.Run(child, func(t *testing.T) {
			dir := t.TempDir()
			said := acknowledged{held: map[uint64]bool{}, began: map[int]map[int]bool{}, done: map[int]int{}}
			for round := 0; round < 10 || len(said.held) < 10 && round < 50; round++ {
				killChild(t, child, dir, &said)
				checkKilled(t, dir, child == "crash", &said)
			}
			if len(said.held) < 10 || len(said.done) == 0 {
				t.Errorf("children did too little to prove anything: %d blobs, %d tags", len(said.held), len(said.done))
			}
		})
	}
}

// killChild lets a child work for a random while, and notes what it said until it was dead.
func killChild(t *testing.T, child, dir string, said *acknowledged) {
	t.Helper()
	cmd := command(t, child, dir)
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var kill *time.Timer
	for lines.Scan() {
		if kill == nil && strings.HasPrefix(lines.Text(), "held") { // It works; now any moment may be its last.
			kill = time.AfterFunc(time.Duration(20+rand.IntN(180))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		said.read(t, lines.Text())
	}
	if err := cmd.Wait(); err == nil || failed.Len() > 0 {
		t.Fatalf("child ended by itself: %v: %s", err, failed.String())
	}
}

func checkKilled(t *testing.T, dir string, keepsAll bool, said *acknowledged) {
	t.Helper()
	report, err := cache.Verify(t.Context(), dir, nil)
	if err != nil || len(report.Dropped) > 0 || len(report.Strange) > 0 {
		t.Fatalf("Verify gave %+v, %v", report, err)
	}
	maxBytes := int64(1 << 40)
	if !keepsAll {
		maxBytes = 2 << 20
	}
	c, err := cache.Open(cache.Config{Dir: dir, MaxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer closeCache(t, c)
	if n := files(t, dir+"/ingest"); n != 0 {
		t.Errorf("%d leftovers after the start", n)
	}
	held, total := 0, int64(0)
	for seed := range uint64(crashBlobs) {
		body := crashBody(seed)
		b, err := c.Open(t.Context(), digest.FromBytes(body))
		if errors.Is(err, content.ErrNotFound) {
			if keepsAll && said.held[seed] {
				t.Errorf("blob %d was held for sure, and is lost", seed)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		held++
		total += b.Size()
		got, err := content.ReadAll(t.Context(), b, 1<<20)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("blob %d reads differently: %v", seed, err)
		}
		want := "application/x-" + strconv.FormatUint(seed, 10)
		if mt := b.MediaType(); mt != want && (mt != "" || keepsAll && said.held[seed]) {
			t.Errorf("blob %d has media type %q", seed, mt)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if held != report.Checked && keepsAll || total > maxBytes {
		t.Errorf("%d blobs of %d bytes are held, and Verify saw %d", held, total, report.Checked)
	}
	checkKilledTags(t, c, said)
}

func checkKilledTags(t *testing.T, c *cache.Cache, said *acknowledged) {
	t.Helper()
	for worker := range 3 {
		tag, err := c.Tag(t.Context(), tagRef("t"+strconv.Itoa(worker)))
		done, known := said.done[worker]
		if errors.Is(err, content.ErrNotFound) && !known {
			continue
		}
		if err != nil {
			t.Errorf("tag %d was set for sure, and is lost: %v", worker, err)
			continue
		}
		version := int(tag.Target.Size)
		if version != done && !said.began[worker][version] {
			t.Errorf("tag %d says version %d, and was set to %d", worker, version, done)
		}
		if want := crashTarget(version); tag.Target.Digest != want.Digest || tag.Target.MediaType != want.MediaType {
			t.Errorf("tag %d says %+v, want %+v", worker, tag.Target, want)
		}
		said.done[worker], said.began[worker] = version, nil
	}
}

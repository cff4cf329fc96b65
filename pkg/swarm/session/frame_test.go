package session

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

func someHaves(n int) (haves []swarm.Have) {
	for i := range n {
		haves = append(haves, swarm.Have{Piece: i, Hash: sha256.Sum256([]byte{byte(i), byte(i >> 8)})})
	}
	return haves
}

func TestFrames(t *testing.T) {
	const pieces = 2*maxHaves + 1
	want := someHaves(pieces)
	b := append(appendHaves([]byte{frameAlive}, want), frameAll)
	r := bufio.NewReader(bytes.NewReader(b))
	var got []swarm.Have
	for frames := 0; ; frames++ {
		f, err := readFrame(r, pieces)
		if err != nil {
			t.Fatalf("frame %d: %v", frames, err)
		}
		got = append(got, f.haves...)
		if f.all {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d pieces arrived of %d", len(got), len(want))
	}
	if _, err := readFrame(r, pieces); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestBrokenFrames(t *testing.T) {
	whole := appendHaves(nil, someHaves(2))
	for name, b := range map[string][]byte{
		"unknown kind":          {9},
		"no count":              {frameHaves, 0},
		"too many":              {frameHaves, 0xff, 0xff},
		"cut short":             whole[:len(whole)-1],
		"a piece beyond":        appendHaves(nil, []swarm.Have{{Piece: 2}}),
		"a piece far beyond":    appendHaves(nil, []swarm.Have{{Piece: -1}}),
		"nothing where one was": {frameHaves, 0, 1},
	} {
		if f, err := readFrame(bufio.NewReader(bytes.NewReader(b)), 2); err == nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestTelling has a member tell what it can't mean after what it told before.
func TestTelling(t *testing.T) {
	one := someHaves(1)
	other := []swarm.Have{{Piece: 0}}
	began := time.Unix(0, 0)
	for name, test := range map[string]struct {
		b    []byte
		kind peer.Kind // Empty if there is nothing wrong.
	}{
		"each once":               {append(appendHaves(nil, someHaves(4)), frameAll), ""},
		"the hash of all zeros":   {append(appendHaves(nil, other), frameAll), ""},
		"a piece twice":           {append(appendHaves(nil, one), appendHaves(nil, one)...), peer.BadPiece},
		"a piece with other hash": {append(appendHaves(nil, one), appendHaves(nil, other)...), peer.BadPiece},
		"twice in a frame":        {appendHaves(nil, append(one, other...)), peer.BadPiece},
		"beyond":                  {appendHaves(nil, []swarm.Have{{Piece: 4}}), peer.BadPiece},
		"far beyond":              {appendHaves(nil, []swarm.Have{{Piece: -1}}), peer.BadPiece},
		"nothing":                 {[]byte{frameHaves, 0, 0}, peer.BadCount},
		"too many":                {[]byte{frameHaves, 0xff, 0xff}, peer.BadCount},
		"behind the last":         {[]byte{frameAll, frameAlive}, peer.BadMessage},
		"another frame":           {[]byte{7}, peer.BadMessage},
		"alive and nothing else":  {append(make([]byte, 1000), frameAll), peer.BadCount},
	} {
		told, r := &telling{pieces: 4, began: began}, bufio.NewReader(bytes.NewReader(test.b))
		var err error
		for f := (frame{}); err == nil && !f.all; {
			f, err = told.read(r, func() time.Time { return began.Add(10 * time.Second) })
		}
		var lie *peer.Violation
		if errors.As(err, &lie); err != nil && (lie == nil || lie.Kind != test.kind) || (err == nil) != (test.kind == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFrame reads frames: such as are well-formed, of pieces and counts at their edges, and any bytes. What is accepted
// is of pieces that there are, each once, and feeds a download that stays in order.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{frameAlive, frameAll}, int64(1), false)
	f.Add(appendHaves(nil, someHaves(3)), int64(5<<20), false)
	f.Add(appendHaves([]byte{frameHaves, 0, 0}, someHaves(1)), int64(swarm.MaxSize), false)
	for _, size := range []int64{-1, 0, 1, 4<<20 - 1, 4 << 20, 4<<20 + 1, 1 << 30, swarm.MaxSize, math.MaxInt64, math.MinInt64} {
		f.Add([]byte{1, 0, 1, 1, 1, 2, 0, 3, 1, 4, 2, 5, 0, 6, 3, 7, 0}, size, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64, build bool) {
		layout := swarm.NewLayout(size)
		pieces := layout.Pieces()
		if pieces < 1 || pieces > 1<<16 {
			t.Fatalf("%d bytes are %d pieces", size, pieces)
		}
		if build {
			b = buildFrames(b, pieces)
		}
		d := swarm.NewDownload(swarm.DownloadConfig{Self: "self", Layout: layout, Rand: rand.New(rand.NewPCG(1, 1))})
		now := time.Unix(0, 0)
		d.Assigned(now, swarm.Assignment{Size: size, Neighbours: []swarm.Neighbour{{Member: "n"}}})
		d.Connected(now, "n")
		told, r := &telling{pieces: pieces, began: now}, bufio.NewReader(bytes.NewReader(b))
		said := map[int]swarm.Hash{}
		for {
			f, err := told.read(r, func() time.Time { return now })
			if err != nil {
				if !errors.Is(err, peer.ErrLied) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				break
			}
			for _, h := range f.haves {
				if _, again := said[h.Piece]; again || h.Piece < 0 || h.Piece >= pieces {
					t.Fatalf("accepted: piece %d of %d", h.Piece, pieces)
				}
				said[h.Piece] = h.Hash
			}
			actions := d.Heard(now, "n", f.haves)
			if f.all {
				actions = append(actions, d.HeardAll(now, "n")...)
			}
			for _, a := range actions {
				if want, ok := a.(swarm.Request); ok {
					if hash, ok := said[want.Piece]; !ok || hash != want.Hash {
						t.Fatalf("asked for piece %d, whose hash was not told", want.Piece)
					}
				}
			}
			if f.all {
				break
			}
		}
		if len(said) > pieces || told.alive > idle+1 {
			t.Fatalf("%d pieces, %d frames without news", len(said), told.alive)
		}
	})
}

// buildFrames makes frames of a fuzzer's choices.
func buildFrames(b []byte, pieces int) (out []byte) {
	edges := []int{0, 1, 2, pieces - 2, pieces - 1, pieces, pieces + 1, 1<<16 - 1, 1 << 16, -1, math.MinInt32, math.MaxInt32}
	for len(b) > 1 {
		kind, n := b[0], int(b[1])
		b = b[2:]
		switch kind % 4 {
		case 0:
			out = append(out, make([]byte, n%40)...) // Alive.
		case 1:
			var haves []swarm.Have
			for i := range n {
				haves = append(haves, swarm.Have{Piece: i, Hash: swarm.Hash{byte(n)}})
			}
			out = appendHaves(out, haves)
		case 2:
			out = appendHaves(out, []swarm.Have{{Piece: edges[n%len(edges)], Hash: swarm.Hash{byte(n / len(edges))}}})
		default:
			out = append(out, frameAll)
		}
	}
	return out
}

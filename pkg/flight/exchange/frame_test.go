package exchange

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"io"
	"slices"
	"testing"

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

func FuzzFrame(f *testing.F) {
	f.Add([]byte{frameAlive, frameAll}, 1)
	f.Add(appendHaves(nil, someHaves(3)), 3)
	f.Add(appendHaves([]byte{frameHaves, 0, 0}, someHaves(1)), 2)
	f.Fuzz(func(t *testing.T, b []byte, pieces int) {
		pieces = max(0, min(pieces, 1<<20))
		r := bufio.NewReader(bytes.NewReader(b))
		var told, again []byte
		for {
			frame, err := readFrame(r, pieces)
			if err != nil {
				break
			}
			for _, h := range frame.haves {
				if h.Piece < 0 || h.Piece >= pieces {
					t.Fatalf("piece %d of %d", h.Piece, pieces)
				}
			}
			told = appendHaves(told, frame.haves)
		}
		for r := bufio.NewReader(bytes.NewReader(told)); ; {
			frame, err := readFrame(r, pieces)
			if err != nil {
				if err != io.EOF {
					t.Fatalf("what was written can't be read: %v", err)
				}
				break
			}
			again = appendHaves(again, frame.haves)
		}
		if !bytes.Equal(told, again) {
			t.Fatal("frames change when written again")
		}
	})
}

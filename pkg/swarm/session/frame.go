package session

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

// The stream on which a member tells what it has is a sequence of frames. Each begins with a byte that says what it
// is; only frameHaves has more: the number of pieces, and for each of them its index and its hash. Numbers are
// big-endian.
const (
	frameAlive byte = iota // Nothing new.
	frameHaves
	frameAll // The member has the whole blob, and this is the last frame.
)

const (
	haveBytes = 4 + len(swarm.Hash{})
	// maxHaves bounds the pieces in one frame. Whoever has more to tell sends more frames.
	maxHaves = 512
)

// frame is one frame of the stream.
type frame struct {
	haves []swarm.Have
	all   bool
}

// appendHaves appends as many frames as it takes to tell of the pieces.
func appendHaves(b []byte, haves []swarm.Have) []byte {
	for len(haves) > 0 {
		n := min(len(haves), maxHaves)
		b = binary.BigEndian.AppendUint16(append(b, frameHaves), uint16(n))
		for _, h := range haves[:n] {
			b = binary.BigEndian.AppendUint32(b, uint32(h.Piece))
			b = append(b, h.Hash[:]...)
		}
		haves = haves[n:]
	}
	return b
}

// readFrame reads one frame about a blob of that many pieces. Its memory is bounded whatever the other side sends.
func readFrame(r *bufio.Reader, pieces int) (frame, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return frame{}, err
	}
	switch kind {
	case frameAlive:
		return frame{}, nil
	case frameAll:
		return frame{all: true}, nil
	case frameHaves:
	default:
		return frame{}, peer.Violate(peer.BadMessage, "a frame of unknown kind %d", kind)
	}
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, fmt.Errorf("a frame is cut short: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n == 0 || n > maxHaves {
		return frame{}, peer.Violate(peer.BadCount, "a frame of %d pieces", n)
	}
	f := frame{haves: make([]swarm.Have, 0, n)}
	var entry [haveBytes]byte
	for range n {
		if _, err := io.ReadFull(r, entry[:]); err != nil {
			return frame{}, fmt.Errorf("a frame is cut short: %w", err)
		}
		piece := binary.BigEndian.Uint32(entry[:])
		if uint64(piece) >= uint64(pieces) {
			return frame{}, peer.Violate(peer.BadPiece, "piece %d of a blob of %d", piece, pieces)
		}
		f.haves = append(f.haves, swarm.Have{Piece: int(piece), Hash: swarm.Hash(entry[4:])})
	}
	return f, nil
}

// telling is what a member has told on one stream, and what it can tell yet.
type telling struct {
	pieces int // Of the blob.
	began  time.Time
	told   swarm.Pieces
	alive  int
}

// idle is how many frames without news there may be beyond those that are due.
const idle = 16

// read reads the next frame. It fails with a violation if the member can't mean it after what it told before: a piece
// twice, more frames than there can be, or anything behind the last.
func (t *telling) read(r *bufio.Reader, now func() time.Time) (frame, error) {
	f, err := readFrame(r, t.pieces)
	if err != nil {
		return frame{}, err
	}
	for _, have := range f.haves {
		if !t.told.Add(have.Piece) {
			return frame{}, peer.Violate(peer.BadPiece, "piece %d twice", have.Piece)
		}
	}
	switch {
	case f.all && r.Buffered() > 0:
		return frame{}, peer.Violate(peer.BadMessage, "%d bytes behind the last frame", r.Buffered())
	case f.all || len(f.haves) > 0:
		return f, nil
	}
	if t.alive++; t.alive > idle+int(now().Sub(t.began)/(aliveEvery/2)) {
		return frame{}, peer.Violate(peer.BadCount, "%d frames without news", t.alive)
	}
	return f, nil
}

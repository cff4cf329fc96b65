package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

const (
	// Path is where members tell what they have of a blob: what the tracker knows it as and the repository follow.
	Path = "/kioo/v1/have/"
	// aliveEvery is how often a member says something on such a stream, and silentFor after how much silence it is
	// taken for dead.
	aliveEvery = 2 * time.Second
	silentFor  = 5 * time.Second
)

var errWrongPiece = peer.Violate(peer.BadBytes, "a piece is not what its hash says")

// neighbour is a member that we listen to. Its fields belong to the session's goroutine, but for those that never
// change.
type neighbour struct {
	p      *session
	id     swarm.ID
	member discovery.Member
	cancel context.CancelFunc
}

// distant tells whether it is in another zone.
func (n *neighbour) distant() bool { return n.member.Zone != n.p.x.cfg.Zone }

// listen reads the neighbour's stream until it ends.
func (n *neighbour) listen(ctx context.Context) {
	err := n.hear(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, peer.ErrLied):
		n.p.post(func(now time.Time) { n.p.lied(now, n, err) })
	default:
		n.p.post(func(now time.Time) { n.p.lost(now, n, err) })
	}
}

// hear returns without an error when the neighbour has told all there is.
func (n *neighbour) hear(ctx context.Context) error {
	p := n.p
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(silentFor, cancel)
	defer silence.Stop()
	told := telling{pieces: p.layout.Pieces(), began: time.Now()}
	resp, err := p.peers.Listen(ctx, n.member.PeerAPI, Path+p.key+"/"+p.ref.Repository.String(), p.size)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	if !p.post(func(now time.Time) {
		if p.neighbours[n.id] == n {
			p.do(now, p.download.Connected(now, n.id))
		}
	}) {
		return nil
	}
	in := bufio.NewReader(resp.Body)
	for {
		f, err := told.read(in, time.Now)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("silent for %v", silentFor)
		case err == io.EOF:
			return errors.New("stream ended")
		case err != nil:
			return err
		}
		silence.Reset(silentFor)
		if len(f.haves) == 0 && !f.all {
			continue
		}
		if !p.post(func(now time.Time) { p.heardOf(now, n, f) }) || f.all {
			return nil
		}
	}
}

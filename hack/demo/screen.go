package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kioo-dev/kioo/hack/fleet"
)

const (
	// redrawEvery is for a terminal, and repeatEvery for what keeps all lines.
	redrawEvery = 200 * time.Millisecond
	repeatEvery = 2 * time.Second

	barWidth = 40
)

// pull is one node's.
type pull struct {
	node *fleet.Node

	mu           sync.Mutex
	began, ended time.Time
}

func (p *pull) run(ctx context.Context, image string) error {
	p.set(&p.began)
	if err := p.node.Pull(ctx, image); err != nil {
		return fmt.Errorf("%s: %w", p.node.Name, err)
	}
	p.set(&p.ended)
	return nil
}

func (p *pull) set(t *time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*t = time.Now()
}

// took is how long the pull has taken so far, and whether it has ended.
func (p *pull) took() (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.began.IsZero():
		return 0, false
	case p.ended.IsZero():
		return time.Since(p.began), false
	default:
		return p.ended.Sub(p.began), true
	}
}

// got is how many bytes containerd has, those that it is still writing included.
func (p *pull) got() int64 {
	var bytes int64
	dir := p.node.Containerd.ContentDir()
	// Files come and go meanwhile: an error means one that has gone.
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if parent := filepath.Base(filepath.Dir(path)); e.Name() != "data" && parent != "sha256" {
			return nil
		}
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

// screen shows how far the pulls are: on a terminal as lines that are drawn anew, elsewhere as a line now and then.
type screen struct {
	out      io.Writer
	terminal bool
	total    int64
	pulls    []*pull
	stop     chan struct{}
	stopped  chan struct{}
}

// newScreen draws until close.
func newScreen(out io.Writer, total int64, pulls []*pull) *screen {
	s := &screen{out: out, terminal: isTerminal(out), total: total, pulls: pulls, stop: make(chan struct{}), stopped: make(chan struct{})}
	go s.run()
	return s
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// close draws the last time.
func (s *screen) close() {
	close(s.stop)
	<-s.stopped
}

func (s *screen) run() {
	defer close(s.stopped)
	every := repeatEvery
	if s.terminal {
		every = redrawEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for first := true; ; first = false {
		s.draw(first)
		select {
		case <-s.stop:
			s.draw(false)
			return
		case <-ticker.C:
		}
	}
}

func (s *screen) draw(first bool) {
	var b strings.Builder
	if s.terminal && !first {
		fmt.Fprintf(&b, "\x1b[%dA", len(s.pulls)) // Up, over the lines of the last time.
	}
	for i, p := range s.pulls {
		took, done := p.took()
		share := min(1, float64(p.got())/float64(s.total))
		if done {
			share = 1
		}
		if s.terminal {
			full := int(share * barWidth)
			fmt.Fprintf(&b, "\r%-8s %s%s %3.0f%% %6.1f s\x1b[K\n", p.node.Name, strings.Repeat("█", full),
				strings.Repeat("░", barWidth-full), share*100, took.Seconds())
			continue
		}
		if i > 0 {
			b.WriteString("  ")
		}
		fmt.Fprintf(&b, "%s %3.0f%%", p.node.Name, share*100)
	}
	if !s.terminal {
		b.WriteByte('\n')
	}
	_, _ = io.WriteString(s.out, b.String()) // Whoever can't see it does not miss it.
}

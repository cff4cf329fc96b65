package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// load asks a server for one small thing over and over, on several connections, each one request at a time. It
// shares the machine with the server, so it speaks HTTP/1.1 by hand: net/http's client costs more than either server.
type load struct {
	host    string
	request []byte
	body    []byte // What every answer must be.
	conns   []*loadConn
}

type loadConn struct {
	net.Conn
	r   *bufio.Reader
	buf []byte
}

func newLoad(ctx context.Context, host, target string, body []byte, clients int) (*load, error) {
	l := &load{
		host:    host,
		request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n", target, host),
		body:    body,
	}
	for range clients {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, &loadConn{Conn: conn, r: bufio.NewReader(conn), buf: make([]byte, len(body))})
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.conns {
		_ = c.Close() // Nothing is left to be said on it.
	}
}

// loadResult is what one turn showed.
type loadResult struct {
	rate     float64 // requests per second
	p50, p99 float64 // milliseconds
}

// turn asks for as long as the slice.
func (l *load) turn(ctx context.Context, slice time.Duration) (loadResult, error) {
	var (
		end       = time.Now().Add(slice)
		latencies = make([][]time.Duration, len(l.conns))
	)
	group, ctx := errgroup.WithContext(ctx)
	for i, c := range l.conns {
		if err := c.SetDeadline(end.Add(10 * time.Second)); err != nil {
			return loadResult{}, err
		}
		group.Go(func() error {
			for start := time.Now(); start.Before(end) && ctx.Err() == nil; {
				if err := l.ask(c); err != nil {
					return fmt.Errorf("ask %s: %w", l.host, err)
				}
				now := time.Now()
				latencies[i] = append(latencies[i], now.Sub(start))
				start = now
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return loadResult{}, err
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	millis := func(p float64) float64 { return all[int(p*float64(len(all)-1))].Seconds() * 1000 }
	return loadResult{rate: float64(len(all)) / slice.Seconds(), p50: millis(0.5), p99: millis(0.99)}, nil
}

// ask sends one request and checks its whole answer.
func (l *load) ask(c *loadConn) error {
	if _, err := c.Write(l.request); err != nil {
		return err
	}
	length, err := c.header()
	if err != nil {
		return err
	}
	if length != len(l.body) {
		return fmt.Errorf("a body of %d bytes instead of %d", length, len(l.body))
	}
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return err
	}
	if !bytes.Equal(c.buf, l.body) {
		return fmt.Errorf("another body: %.80q", c.buf)
	}
	return nil
}

// header reads an answer's header and returns its Content-Length.
func (c *loadConn) header() (length int, err error) {
	status, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("status %q", status)
	}
	length = -1
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		name, value, _ := strings.Cut(textproto.TrimString(string(line)), ":")
		if name == "" {
			return length, nil
		}
		if strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(textproto.TrimString(value)); err != nil {
				return 0, err
			}
		}
	}
}

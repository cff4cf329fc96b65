package peer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/strangers"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// crowd is how many connections strangers keep open.
const crowd = 1000

// fetchTime is how long a member may go on trying.
const fetchTime = 20 * time.Second

// get gets a blob as a whole.
func get(ctx context.Context, c *peer.Client, addr string, body []byte) error {
	s, err := c.Blob(ctx, []string{addr}, blobRef(body), 0, -1)
	if err != nil {
		return err
	}
	defer s.Close()
	got, err := io.ReadAll(s)
	if err == nil && !bytes.Equal(got, body) {
		err = fmt.Errorf("%d bytes that are others", len(got))
	}
	return err
}

// TestStrangersKeepNobodyOut keeps the port busy in all ways: a member gets what it asks for.
func TestStrangersKeepNobodyOut(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := []byte(strings.Repeat("blob", 10_000))
	for name, behaviour := range strangers.Behaviours() {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds})
			n := crowd
			if name == "TLS" {
				// Each handshake costs a processor some milliseconds where the race detector looks on. How many there are in
				// two seconds is bounded, but it is more than a test's machine has for all of them.
				n = crowd / 5
			}
			r, err := strangers.Start(t.Context(), strangers.Crowd{
				To: addr, Connections: n, Sources: strangers.Loopback(100), Behaviour: behaviour,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Stop()
			for range 5 { // Each on a connection of its own, as tries of a member that needs it.
				began := time.Now()
				// With as many strangers on this machine, a handshake waits for a processor.
				c := peer.NewClient(peer.ClientConfig{Credentials: creds, Connect: 5 * time.Second, FirstByte: 5 * time.Second})
				for tried := 1; ; tried++ {
					err := get(t.Context(), c, addr, body)
					if err == nil {
						t.Logf("fetched by try %d after %v", tried, time.Since(began).Round(time.Millisecond))
						break
					}
					if time.Since(began) > fetchTime {
						t.Fatal(err)
					}
				}
				c.Close()
			}
		})
	}
}

// TestHandshakeHasTwoSeconds opens connections that take their time in all ways.
func TestHandshakeHasTwoSeconds(t *testing.T) {
	addr := serve(t, peer.ServerConfig{Handler: http.NotFoundHandler(), Credentials: credentials(t, peer.NewKey())})
	behaviours := strangers.Behaviours()
	// A record of TLS of 16 KiB, a byte at a time: no byte makes the two seconds longer.
	behaviours["slow"] = func(ctx context.Context, conn net.Conn) {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := conn.Write([]byte("\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03")[min(i, 10):][:1]); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond) // The pace is what is tested.
		}
	}
	for name, behaviour := range behaviours {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithCancel(t.Context())
			var saying sync.WaitGroup
			defer saying.Wait()
			defer cancel()
			saying.Go(func() { behaviour(ctx, conn) })
			if err := conn.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("still open after four seconds")
			}
		})
	}
}

// TestOneMemberTakesNotAllConnections has one who holds the key open connections without end: it keeps its share of
// them, the newest, and the rest of the port is for others.
func TestOneMemberTakesNotAllConnections(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	reg := prometheus.NewRegistry()
	body := []byte("blob")
	addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds, Registerer: reg})
	const share, tries = 512, 700
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	dialer := tls.Dialer{Config: creds.Client()}
	for range tries {
		conn, err := dialer.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		// Who never asks for anything is cut off anyway.
		if _, err := io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: kioo\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	fetch(t, client(t, creds), addr, body) // Also a late one's handshake is over now.
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kioo_peer_connections Open inbound connections: of strangers, of listed addresses that have not proven to be a member yet, of members.
# TYPE kioo_peer_connections gauge
kioo_peer_connections{from="listed"} 0
kioo_peer_connections{from="member"} 512
kioo_peer_connections{from="stranger"} 0
`), "kioo_peer_connections")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := open[0].SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, open[0])
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Errorf("the oldest of %d connections is still open, with a share of %d", tries, share)
	}
}

package httpclient_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const progress = 10 * time.Second

var errEnough = errors.New("the reader has had enough")

// asked is an answer of 100 bytes that was asked for, and what it costs to give up.
type asked struct {
	*httpclient.Body
	ctx      context.Context
	cancel   context.CancelCauseFunc
	received prometheus.Counter
}

// ask has a server whose every byte waits for as long as pause says; a negative pause hangs up instead.
func ask(t *testing.T, pause func(i int) time.Duration) *asked {
	t.Helper()
	here, there := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer there.Close()
		if _, err := http.ReadRequest(bufio.NewReader(there)); err != nil {
			t.Error(err)
		}
		_, err := io.WriteString(there, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n")
		for i := 0; i < 100 && err == nil; i++ { // Until the client hangs up.
			d := pause(i)
			if d < 0 {
				return
			}
			time.Sleep(d)
			_, err = there.Write([]byte{'x'})
		}
	}()
	ctx, cancel := context.WithCancelCause(t.Context())
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return here, nil }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{ctx: ctx, cancel: cancel, received: prometheus.NewCounter(prometheus.CounterOpts{Name: "received"})}
	a.Body = httpclient.NewBody(ctx, cancel, resp.Body, progress, a.received)
	t.Cleanup(func() { a.Close(); <-served })
	return a
}

func TestBody(t *testing.T) {
	never := 24 * time.Hour
	from := func(first int, d time.Duration) func(int) time.Duration {
		return func(i int) time.Duration {
			if i < first {
				return 0
			}
			return d
		}
	}
	always := func(d time.Duration) func(int) time.Duration { return from(0, d) }
	for name, test := range map[string]struct {
		pause  func(i int) time.Duration
		giveUp time.Duration // When the reader ends the request; 0 is never.
		think  time.Duration // Between two reads.
		read   int
		took   time.Duration
		err    error
	}{
		"whole":                       {pause: always(0), read: 100},
		"slow, but moving":            {pause: always(progress - time.Second), read: 100, took: 100 * (progress - time.Second)},
		"never a byte":                {pause: always(never), took: progress, err: httpclient.ErrStalled},
		"stalls midway":               {pause: from(40, never), read: 40, took: progress, err: httpclient.ErrStalled},
		"stalls, given up later":      {pause: from(40, never), giveUp: progress + 1, read: 40, took: progress, err: httpclient.ErrStalled},
		"given up before it stalls":   {pause: from(40, never), giveUp: progress - 1, read: 40, took: progress - 1, err: errEnough},
		"the reader is the slow side": {pause: always(0), think: 2 * progress, read: 100, took: 100 * 2 * progress},
		"hangs up midway":             {pause: from(40, -1), read: 40, err: io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := ask(t, test.pause)
				if test.giveUp > 0 {
					defer time.AfterFunc(test.giveUp, func() { a.cancel(errEnough) }).Stop()
				}
				began, read := time.Now(), 0
				n, err := 0, error(nil)
				for err == nil {
					if n, err = a.Read(make([]byte, 1)); n > 0 {
						read += n
						time.Sleep(test.think)
					}
				}
				if took := time.Since(began); read != test.read || took != test.took {
					t.Errorf("read %d bytes in %v, want %d in %v", read, took, test.read, test.took)
				}
				if want := test.err; want == nil && err != io.EOF || want != nil && !errors.Is(err, want) {
					t.Errorf("it ends with %v, want %v", err, want)
				}
				if got := testutil.ToFloat64(a.received); got != float64(test.read) {
					t.Errorf("%v bytes counted, want %d", got, test.read)
				}
			})
		})
	}
}

// TestBodyClosed looks for what is left of a body that was closed before its end.
func TestBodyClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := ask(t, func(int) time.Duration { return time.Second })
		if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if got := context.Cause(a.ctx); got != context.Canceled {
			t.Errorf("the request ended with %v", got)
		}
		time.Sleep(2 * progress)
		if _, err := a.Read(make([]byte, 1)); err == nil || errors.Is(err, httpclient.ErrStalled) {
			t.Errorf("reading on gives %v", err)
		}
	})
}

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/opencontainers/go-digest"
)

// step is what a faulty registry does with one request for a blob.
type step func(w http.ResponseWriter, r *http.Request, data []byte)

func honest(w http.ResponseWriter, r *http.Request, data []byte) { serveBlob(w, r, data) }

func status(code int, header ...string) step {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// breakAfter sends that many bytes of an honest answer and then does what it is told.
func breakAfter(n int, how func(w http.ResponseWriter, r *http.Request)) step {
	return func(w http.ResponseWriter, r *http.Request, data []byte) {
		flush(w, head(w, r, data)[:n])
		how(w, r)
	}
}

func byReset(w http.ResponseWriter, _ *http.Request) { reset(w) }
func byFIN(http.ResponseWriter, *http.Request)       { cutOff() }
func byStall(_ http.ResponseWriter, r *http.Request) { stall(r) }

// claims answers 206 with a Content-Range of one's choice.
func claims(contentRange string) step {
	return func(w http.ResponseWriter, r *http.Request, data []byte) {
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data[offset(r):])
	}
}

// wholeBlob ignores ranges.
func wholeBlob(w http.ResponseWriter, _ *http.Request, data []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

// anew is honest, but under an ETag that nobody knew before.
func anew(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("ETag", `"v2"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// wholeAgain ignores ranges without a change of the ETag.
func wholeAgain(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("ETag", `"v1"`)
	wholeBlob(w, r, data)
}

// raw writes an answer byte by byte as given, for what net/http would not send.
func raw(answer func(data []byte) string) step {
	return func(w http.ResponseWriter, _ *http.Request, data []byte) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, answer(data))
		_ = conn.Close()
	}
}

const size = 1 << 20

func TestBlobFaults(t *testing.T) {
	data := randomBytes(size)
	tests := map[string]struct {
		steps    []step // One for each GET; the last one repeats.
		requests int
		err      error // Nil: all bytes arrive.
		unranged bool
	}{
		"honest":                        {steps: []step{honest}, requests: 1},
		"reset once":                    {steps: []step{breakAfter(1000, byReset), honest}, requests: 2},
		"reset far in":                  {steps: []step{breakAfter(700_000, byReset), honest}, requests: 2},
		"closed short":                  {steps: []step{breakAfter(1000, byFIN), honest}, requests: 2},
		"stalls":                        {steps: []step{breakAfter(1000, byStall), honest}, requests: 2},
		"breaks again and again":        {steps: []step{breakAfter(9, byFIN), breakAfter(9, byReset), breakAfter(9, byFIN), breakAfter(9, byReset), breakAfter(9, byFIN), honest}, requests: 6},
		"stalls for good":               {steps: []step{breakAfter(1000, byStall), breakAfter(0, byStall)}, requests: 4, err: httpclient.ErrStalled},
		"resets for good":               {steps: []step{breakAfter(1000, byReset), breakAfter(0, byReset)}, requests: 4, err: ErrUnavailable},
		"closes for good":               {steps: []step{breakAfter(1000, byFIN), breakAfter(0, byFIN)}, requests: 4, err: io.ErrUnexpectedEOF},
		"drops ranges in the middle":    {steps: []step{breakAfter(1000, byFIN), wholeAgain}, requests: 2, unranged: true},
		"changes its ETag":              {steps: []step{breakAfter(1000, byFIN), anew}, requests: 2},
		"500 in the middle":             {steps: []step{breakAfter(1000, byFIN), status(500), honest}, requests: 3},
		"500 in the middle, for good":   {steps: []step{breakAfter(1000, byFIN), status(500)}, requests: 4, err: ErrUnavailable},
		"429 in the middle":             {steps: []step{breakAfter(1000, byFIN), status(429), honest}, requests: 3},
		"429 in the middle, wait long":  {steps: []step{breakAfter(1000, byFIN), status(429, "Retry-After", "600")}, requests: 2, err: ErrRateLimited},
		"403 in the middle":             {steps: []step{breakAfter(1000, byFIN), status(403)}, requests: 2, err: ErrDenied},
		"404 in the middle":             {steps: []step{breakAfter(1000, byFIN), status(404)}, requests: 2, err: ErrNotFound},
		"range that starts elsewhere":   {steps: []step{breakAfter(1000, byFIN), claims(fmt.Sprintf("bytes 999-%d/%d", size-1, size))}, requests: 2, err: ErrInvalid},
		"range without a Content-Range": {steps: []step{breakAfter(1000, byFIN), claims("")}, requests: 2, err: ErrInvalid},
		"range of another size":         {steps: []step{breakAfter(1000, byFIN), claims(fmt.Sprintf("bytes 1000-%d/%d", size-1, size+1))}, requests: 2, err: ErrInvalid},
		"range of unknown size":         {steps: []step{breakAfter(1000, byFIN), claims(fmt.Sprintf("bytes 1000-%d/*", size-1))}, requests: 2},
		"claims more than it has": {
			steps: []step{func(w http.ResponseWriter, _ *http.Request, data []byte) {
				w.Header().Set("Content-Length", strconv.Itoa(len(data)+10))
				flush(w, data)
				cutOff()
			}, status(416)}, requests: 2, err: nil,
		},
		"other bytes are passed through": {
			steps: []step{func(w http.ResponseWriter, _ *http.Request, data []byte) {
				wholeBlob(w, nil, bytes.Repeat([]byte{1}, len(data)))
			}}, requests: 1,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
				tt.steps[min(n, len(tt.steps)-1)](w, r, data)
			})
			cfg := fast(at(s)...)
			if strings.HasPrefix(name, "stalls") {
				cfg.Timeouts.Progress = 500 * time.Millisecond
			}
			c := client(t, cfg)
			got, b, err := readBlob(t, c, data, 0, -1)
			if b == nil {
				t.Fatal(err)
			}
			switch {
			case name == "other bytes are passed through":
				if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{1}, size)) {
					t.Errorf("got %d bytes, error %v", len(got), err)
				}
			case name == "claims more than it has":
				if err == nil || b.Size() != size+10 || len(got) != size {
					t.Errorf("got %d bytes of %d, error %v; want an error after all of them", len(got), b.Size(), err)
				}
			case tt.err == nil:
				if err != nil || !bytes.Equal(got, data) || b.Size() != size {
					t.Errorf("got %d bytes of %d, error %v", len(got), b.Size(), err)
				}
			default:
				if !errors.Is(err, tt.err) || errors.Is(err, io.EOF) {
					t.Errorf("got error %v, want %v", err, tt.err)
				}
				if !bytes.Equal(got, data[:1000]) {
					t.Errorf("got %d bytes before the error, want the first 1000", len(got))
				}
			}
			if n := len(s.seen()); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
			if b.Ranged() == tt.unranged {
				t.Errorf("ranged is %v", b.Ranged())
			}
		})
	}
}

// What is asked for again is the rest, of the very same thing.
func TestBlobResumesWithIfRange(t *testing.T) {
	data := randomBytes(size)
	s := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 0 {
			breakAfter(1000, byReset)(w, r, data)
			return
		}
		flush(w, head(w, r, data))
	})
	if got, _, err := readBlob(t, client(t, fast(at(s)...)), data, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("got %d bytes, error %v", len(got), err)
	}
	first, second := s.seen()[0].Header, s.seen()[1].Header
	if first.Get("Range") != "" || second.Get("Range") != "bytes=1000-" || second.Get("If-Range") != `"v1"` {
		t.Errorf("asked for %q, then for %q if it is %q", first.Get("Range"), second.Get("Range"), second.Get("If-Range"))
	}
	if second.Get("Accept-Encoding") != "identity" {
		t.Errorf("accepts encoding %q", second.Get("Accept-Encoding"))
	}
}

func TestBlobRanges(t *testing.T) {
	data := randomBytes(10_000)
	servers := map[string]step{"with ranges": honest, "without ranges": wholeBlob}
	for name, serveIt := range servers {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveIt(w, r, data) })
		c := client(t, fast(at(s)...))
		for _, r := range []struct{ off, end, wantEnd int64 }{
			{0, -1, 10_000}, {0, 1, 1}, {0, 10_000, 10_000}, {1, -1, 10_000}, {4096, 8192, 8192},
			{9_999, -1, 10_000}, {9_000, 20_000, 10_000}, {0, 20_000, 10_000},
		} {
			got, b, err := readBlob(t, c, data, r.off, r.end)
			if err != nil || !bytes.Equal(got, data[r.off:r.wantEnd]) || b.Size() != 10_000 {
				t.Errorf("%s, from %d to %d: %d bytes, error %v", name, r.off, r.end, len(got), err)
			}
		}
		for _, r := range [][2]int64{{-1, 5}, {5, 5}, {6, 5}, {10_000, -1}, {10_000, 10_001}, {1 << 61, -1}} {
			if _, _, err := readBlob(t, c, data, r[0], r[1]); err == nil {
				t.Errorf("%s, from %d to %d: no error", name, r[0], r[1])
			}
		}
	}
}

func TestBlobEmpty(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, nil) })
	got, b, err := readBlob(t, client(t, fast(at(s)...)), nil, 0, -1)
	if err != nil || len(got) != 0 || b.Size() != 0 {
		t.Errorf("got %d bytes of %d, error %v", len(got), b.Size(), err)
	}
}

// A body without a length is read if HEAD tells the length, and its end is checked against that.
func TestBlobWithoutLength(t *testing.T) {
	data := randomBytes(10_000)
	tests := map[string]struct {
		head int // What HEAD says; -1: nothing.
		want error
	}{
		"HEAD is right":        {head: 10_000},
		"HEAD says too little": {head: 9_999, want: ErrInvalid},
		"HEAD says too much":   {head: 10_001, want: io.ErrUnexpectedEOF},
		"HEAD says nothing":    {head: -1, want: ErrInvalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
				switch {
				case r.Method == http.MethodHead && tt.head >= 0:
					w.Header().Set("Content-Length", strconv.Itoa(tt.head))
				case r.Method == http.MethodHead:
					w.Header().Set("Transfer-Encoding", "chunked")
				case r.Header.Get("Range") == "bytes=10000-":
					breakAfter(0, byFIN)(w, r, append(data, 0))
				default:
					flush(w, data[:100])
					_, _ = w.Write(data[100:])
				}
			})
			got, _, err := readBlob(t, client(t, fast(at(s)...)), data, 0, -1)
			if !errors.Is(err, tt.want) || tt.want != nil && errors.Is(err, io.EOF) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			if tt.want == nil && !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, want %d", len(got), len(data))
			}
		})
	}
}

func TestBlobRefusesEncoding(t *testing.T) {
	data := randomBytes(100)
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		w.Header().Set("Content-Encoding", "gzip")
		wholeBlob(w, r, data)
	})
	if _, _, err := readBlob(t, client(t, fast(at(s)...)), data, 0, -1); !errors.Is(err, ErrInvalid) {
		t.Errorf("got error %v", err)
	}
}

// Garbage instead of HTTP is a failure like any other.
func TestBlobGarbage(t *testing.T) {
	data := randomBytes(100)
	for name, answer := range map[string]string{
		"no HTTP":          "SSH-2.0-OpenSSH_9.9\r\n\r\n",
		"two lengths":      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
		"negative length":  "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcdef",
		"nothing":          "",
		"header bomb":      "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Bomb: "+strings.Repeat("x", 1000)+"\r\n", 200) + "\r\n",
		"redirect loop":    "HTTP/1.1 302 Found\r\nLocation: ?\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"redirect nowhere": "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			raw(func([]byte) string { return answer })(w, r, data)
		})
		_, _, err := readBlob(t, client(t, fast(at(s)...)), data, 0, -1)
		if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrInvalid) || errors.Is(err, io.EOF) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// When an endpoint dies in the middle, the next one has the rest.
func TestBlobMovesToNextEndpoint(t *testing.T) {
	data := randomBytes(size)
	for name, then := range map[string]step{
		"dies": breakAfter(0, byReset), "denies": status(403), "forgets": status(404), "lies": claims("bytes 0-1/2"),
	} {
		cache := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 0 {
				breakAfter(1000, byReset)(w, r, data)
				return
			}
			then(w, r, data)
		})
		origin := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
		got, _, err := readBlob(t, client(t, fast(at(cache, origin)...)), data, 0, -1)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: got %d bytes, error %v", name, len(got), err)
		}
		if seen := origin.seen(); len(seen) != 1 || seen[0].Header.Get("Range") != "bytes=1000-" || seen[0].Header.Get("If-Range") != "" {
			t.Errorf("%s: the next endpoint was asked %d times, first for %v", name, len(seen), seen[0].Header)
		}
	}
}

func TestBlobEndsWithContext(t *testing.T) {
	data := randomBytes(size)
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { breakAfter(1000, byStall)(w, r, data) })
	c := client(t, fast(at(s)...))
	ctx, cancel := context.WithCancel(t.Context())
	b, err := c.Blob(ctx, repo, digest.FromBytes(data), 0, -1, Origin{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.ReadFull(b, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
		t.Errorf("got error %v", err)
	}
	if n := len(s.seen()); n != 1 {
		t.Errorf("%d requests, want 1: nobody waits any more", n)
	}
}

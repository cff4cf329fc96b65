package peer

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestAges writes ages, and reads them again: none gets smaller by it, and none makes sense outside of its domain.
func TestAges(t *testing.T) {
	asked := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, age := range []time.Duration{-time.Second, 0, 1, time.Millisecond - 1, time.Millisecond, time.Hour + 1, MaxAge} {
		h := http.Header{}
		SetAge(h, age)
		said, err := saidAt(h, asked)
		if got := asked.Sub(said); err != nil || got < age || got > max(age, 0)+time.Millisecond {
			t.Errorf("%v is read as %v, %v", age, got, err)
		}
	}
	for _, text := range []string{"", "-1", "NaN", "Inf", "1e3", "0x10", "9223372036854775807", "9223372036854775808", "1 ", "１"} {
		for _, name := range []string{AgeHeader, "Age"} {
			if said, err := saidAt(http.Header{name: {text}}, asked); err == nil {
				t.Errorf("%s: %q is read as %v", name, text, said)
			}
		}
	}
	// Who tells whole seconds has rounded down.
	if said, err := saidAt(http.Header{"Age": {"1"}}, asked); err != nil || asked.Sub(said) != 2*time.Second {
		t.Errorf("%v, %v", said, err)
	}
}

// TestViolations notes the same twice, and much of one address: others are named all the same.
func TestViolations(t *testing.T) {
	var lines []string
	reg := prometheus.NewRegistry()
	v := NewViolations(funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}), reg)
	lie := fmt.Errorf("told: %w", Violate(BadAge, "an age of %d", -1))
	if v.Note("m", "10.0.0.1:1", "d", nil) || v.Note("m", "10.0.0.1:1", "d", ErrDead) || !v.Note("m", "10.0.0.1:1", "d", lie) {
		t.Error("other errors are noted")
	}
	v.Note("m", "10.0.0.1:1", "d", lie)
	if len(lines) != 1 || !strings.Contains(lines[0], `"peer"="m"`) || !strings.Contains(lines[0], "10.0.0.1") || !strings.Contains(lines[0], "age") {
		t.Errorf("logged: %q", lines)
	}
	for i := range 1000 {
		v.Note(fmt.Sprint("m", i), fmt.Sprint("10.0.0.1:", i), "d", lie)
	}
	if len(lines) != maxRepeats {
		t.Errorf("%d lines of one address", len(lines))
	}
	for i := range 2 * maxSources {
		v.Note("m", fmt.Sprintf("10.0.%d.%d:1", 1+i/256, i%256), "d", lie)
	}
	if len(lines) != maxRepeats+2*maxSources || len(v.logged) > maxSources {
		t.Errorf("%d lines, %d addresses remembered", len(lines), len(v.logged))
	}
	if n := testutil.ToFloat64(v.counted.WithLabelValues(string(BadAge))); n != 1002+2*maxSources {
		t.Errorf("%v are counted", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if !(*Violations)(nil).Note("", "", "", lie) {
		t.Error("nil does not tell what a violation is")
	}
}

// TestHeadersOfMembers sends requests with such headers as no member sends.
func TestHeadersOfMembers(t *testing.T) {
	asked := 0
	creds, err := NewCredentials([]Key{NewKey()}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }), Credentials: creds})
	long := strings.Repeat("x", 200)
	for _, header := range []http.Header{
		{MemberHeader: {long}}, {ZoneHeader: {long}}, {MemberHeader: {"a\x00"}}, {ZoneHeader: {"ä"}}, {PieceHeader: {"2"}}, {ClaimHeader: {long}},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v2/a/blobs/"+digest.FromString("x").String(), nil)
		r.Header = header
		if s.ServeHTTP(w, r); w.Code != http.StatusBadRequest || asked > 0 {
			t.Errorf("%v: %d", header, w.Code)
		}
	}
}

// FuzzHeaders answers with headers whose values are at the edges of their domains, and any others. What is believed is
// in its domain.
func FuzzHeaders(f *testing.F) {
	numbers := []string{"0", "-0", "1", "-1", "4194304", "4194305", "17592186044416", "17592186044417", "4611686018427387904",
		fmt.Sprint(math.MaxInt64), fmt.Sprint(uint64(math.MaxUint64)), "1e9", "NaN", "+1", "", " 1", "3153600000000", "3153600000001"}
	for _, n := range numbers {
		f.Add(n, "", "", "bytes 0-0/"+n, int64(1), int64(0), int64(1), "application/json", "1")
		f.Add("", n, "", "bytes "+n+"-9/10", int64(10), int64(0), int64(-1), "text/html; charset=utf-8", n)
		f.Add("5", n, "m", "bytes 0-"+n+"/"+n, int64(math.MaxInt64), int64(0), int64(-1), "a/b", "")
		f.Add("5", n, "m", "bytes 0-"+n+"/*", int64(-1), int64(math.MaxInt64), int64(math.MinInt64), "/", "")
	}
	asked := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	dgst := digest.FromString("x").String()
	f.Fuzz(func(t *testing.T, ms, seconds, name, ranged string, length, off, end int64, mediaType, piece string) {
		h := http.Header{AgeHeader: {ms}, "Age": {seconds}, "Content-Range": {ranged}, "Content-Type": {mediaType}, "Docker-Content-Digest": {dgst},
			RetryHeader: {ms}, "Retry-After": {seconds}, MemberHeader: {name}, ZoneHeader: {name}, PieceHeader: {piece}, ClaimHeader: {name}, SizeHeader: {seconds}}
		for _, status := range []int{http.StatusOK, http.StatusPartialContent} {
			resp := &http.Response{StatusCode: status, Header: h, ContentLength: length}
			if a, err := readTag(resp, asked); err == nil && (a.Confirmed.After(asked) || asked.Sub(a.Confirmed) > MaxAge ||
				a.Target.Size < 0 || a.Target.Size > content.MaxManifestBytes || len(a.Target.MediaType) > maxMediaType) {
				t.Fatalf("believed: %+v", a)
			}
			off, end := max(off, 0), max(end, -1)
			if size, err := wholeSize(resp, off, end); err == nil && (size < 0 || size > swarm.MaxSize || off > size) {
				t.Fatalf("believed: [%d, %d) of %d bytes", off, end, size)
			}
			if retry := retryAfter(h); retry < 0 || retry > maxRetry {
				t.Fatalf("retry after %v", retry)
			}
		}
		if member, err := check(&http.Request{Header: h}); err == nil && (len(member) > maxName || strings.ContainsAny(string(member), "\r\n\x00")) {
			t.Fatalf("believed: %q", member)
		}
		if size, err := Believed(&http.Request{Header: h}); err == nil && (size < -1 || size > swarm.MaxSize) {
			t.Fatalf("believed: %d bytes", size)
		}
	})
}

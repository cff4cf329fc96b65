package httpclient_test

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/httpclient"
)

func TestRange(t *testing.T) {
	for _, test := range []struct {
		off, end int64
		want     string
	}{{0, -1, ""}, {5, -1, "bytes=5-"}, {0, 1, "bytes=0-0"}, {5, 10, "bytes=5-9"}} {
		if got := httpclient.Range(test.off, test.end); got != test.want {
			t.Errorf("from %d up to %d: %q, want %q", test.off, test.end, got, test.want)
		}
	}
}

func TestParseContentRange(t *testing.T) {
	for value, want := range map[string]httpclient.ContentRange{
		"bytes 0-0/1":  {First: 0, Last: 0, Total: 1},
		"bytes 5-9/10": {First: 5, Last: 9, Total: 10},
		"bytes 5-9/*":  {First: 5, Last: 9, Total: -1},
	} {
		if got, ok := httpclient.ParseContentRange(value); !ok || got != want {
			t.Errorf("%q is %+v, %v, want %+v", value, got, ok, want)
		}
	}
	for _, value := range []string{
		"", "bytes", "bytes 5-9", "bytes 5/10", "bytes */10", "bytes -9/10", "bytes 5-/10", "bytes 9-5/10", "bytes 5-9/9", "bytes 5-9/",
		"bytes +5-9/10", "bytes 5-9/+10", "bytes 5-9/10 ", "bytes  5-9/10", "bytes=5-9/10", "items 5-9/10", "bytes 5-9/10/11", "bytes 0x5-9/10",
		"bytes 0-4611686018427387904/*", "bytes 0-9223372036854775808/*",
	} {
		if got, ok := httpclient.ParseContentRange(value); ok {
			t.Errorf("%q is %+v", value, got)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 9223372036854775807-9223372036854775807/*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r, ok := httpclient.ParseContentRange(value)
		if !ok {
			return
		}
		if r.First < 0 || r.Last < r.First || r.Last-r.First+1 <= 0 || (r.Total != -1 && r.Total <= r.Last) {
			t.Errorf("got %+v", r)
		}
	})
}

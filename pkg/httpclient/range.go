package httpclient

import (
	"strconv"
	"strings"
)

// Range is the header that asks for the bytes from off on, up to end, which is not one of them, or to the last one if
// end is negative. It is empty where that is all of them: some servers and caches know only the plain question.
func Range(off, end int64) string {
	if off == 0 && end < 0 {
		return ""
	}
	want := "bytes=" + strconv.FormatInt(off, 10) + "-"
	if end >= 0 {
		want += strconv.FormatInt(end-1, 10)
	}
	return want
}

// ContentRange says which bytes an answer has.
type ContentRange struct {
	// First and Last are both in the answer.
	First, Last int64
	// Total is how many there are altogether, -1 if the server does not say.
	Total int64
}

// ParseContentRange reads "bytes first-last/total". Ranges that make no sense are not ok.
func ParseContentRange(value string) (ContentRange, bool) {
	rest, ok := strings.CutPrefix(value, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return ContentRange{}, false
	}
	r := ContentRange{Total: -1}
	if r.First, ok = parseBytes(first); !ok {
		return ContentRange{}, false
	}
	if r.Last, ok = parseBytes(last); !ok || r.Last < r.First {
		return ContentRange{}, false
	}
	if size == "*" {
		return r, true
	}
	r.Total, ok = parseBytes(size)
	return r, ok && r.Last < r.Total
}

// parseBytes reads a number of bytes, which has digits alone and leaves room for arithmetic.
func parseBytes(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < 1<<62
}

package upstream

import (
	"net/http"
	"strconv"
	"strings"
)

// part is which bytes of a blob an answer holds.
type part struct {
	first, last, total int64
	ignored            bool // A range was asked for, and all bytes came.
}

// parseContentRange reads "bytes first-last/total". A total of "*" is -1. Ranges that make no sense are not ok.
func parseContentRange(value string) (part, bool) {
	rest, ok := strings.CutPrefix(value, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return part{}, false
	}
	p := part{total: -1}
	if p.first, ok = parseBytes(first); !ok {
		return part{}, false
	}
	if p.last, ok = parseBytes(last); !ok || p.last < p.first {
		return part{}, false
	}
	if size == "*" {
		return p, true
	}
	p.total, ok = parseBytes(size)
	return p, ok && p.last < p.total
}

// parseBytes reads a number of bytes, which has digits alone and leaves room for arithmetic.
func parseBytes(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < 1<<62
}

// strongETag gives an ETag that promises the same bytes (RFC 9110, If-Range), or nothing.
func strongETag(header http.Header) string {
	if tag := header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return ""
}

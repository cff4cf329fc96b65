package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// byteRange is n bytes from off on.
type byteRange struct{ off, n int64 }

// parseRange reads a Range header for content of size bytes (RFC 9110, section 14.1.2). A header that asks for
// several ranges, another unit or breaks the grammar asks for nothing, as that section allows: partial is false and
// the whole is meant. A range that lies outside is refused with 416.
func parseRange(header string, size int64) (r byteRange, partial bool, err error) {
	whole := byteRange{0, size}
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return whole, false, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !digits(first) || !digits(last) || first == "" && last == "" {
		return whole, false, nil
	}
	switch {
	case first == "": // The last bytes.
		n := min(number(last), size)
		if n == 0 {
			return whole, false, unsatisfiable(header, size)
		}
		return byteRange{size - n, n}, true, nil
	case number(first) >= size:
		return whole, false, unsatisfiable(header, size)
	case last == "":
		return byteRange{number(first), size - number(first)}, true, nil
	case number(last) < number(first):
		return whole, false, nil // Invalid by the RFC, not unsatisfiable.
	}
	off := number(first)
	return byteRange{off, min(number(last), size-1) - off + 1}, true, nil
}

func unsatisfiable(header string, size int64) *refusal {
	r := refuse(http.StatusRequestedRangeNotSatisfiable, codeRangeInvalid, "range %s is outside of the %d bytes that there are",
		strconv.QuoteToASCII(header), size)
	r.header = http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}}
	return r
}

func (r byteRange) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", r.off, r.off+r.n-1, size)
}

func digits(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

// number reads digits. What an int64 can't hold is as good as the largest that it can.
func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64) // On overflow it gives the largest; empty can't come here.
	return n
}

// resumes tells whether a request asks for the end of something whose beginning the client already has.
func resumes(req *http.Request) bool {
	first, _, ok := strings.Cut(strings.TrimPrefix(req.Header.Get("Range"), "bytes="), "-")
	return ok && first != "" && digits(first) && number(first) > 0
}

// namesETag tells whether an If-None-Match header names this digest (RFC 9110, section 13.1.2).
func namesETag(header string, etag string) bool {
	for _, tag := range strings.Split(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
			return true
		}
	}
	return false
}

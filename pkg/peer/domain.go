package peer

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/kioo-dev/kioo/pkg/swarm"
)

const (
	// maxName bounds a member's name and zone: those of discovery are shorter.
	maxName = 128
	// maxMediaType bounds a media type: two names of 127 characters at most (RFC 6838, section 4.2).
	maxMediaType = 255
	// maxClaim bounds what a member says of its client.
	maxClaim = 64
)

// CheckSize tells whether a blob can have that many bytes.
func CheckSize(size int64) error {
	if size < 0 || size > swarm.MaxSize {
		return Violate(BadSize, "a blob of %d bytes", size)
	}
	return nil
}

// CheckMediaType tells whether something can be a media type.
func CheckMediaType(s string) error {
	kind, _, err := mime.ParseMediaType(s)
	if len(s) > maxMediaType || err != nil || strings.Count(kind, "/") != 1 {
		return Violate(BadType, "media type %.80q", s)
	}
	return nil
}

// SizeHeader is what a member believes that a blob's size is, of which it wants to be told what there is.
const SizeHeader = "Kioo-Size"

// Believed gives that size; -1 where a request does not say it.
func Believed(r *http.Request) (int64, error) {
	text := r.Header.Get(SizeHeader)
	if text == "" {
		return -1, nil
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1, Violate(BadSize, "%s is %.40q", SizeHeader, text)
	}
	return size, CheckSize(size)
}

// From says who sent a request. The name is empty for who does not say it, which is no member's way but a probe's.
func From(r *http.Request) (member swarm.ID, zone string, err error) {
	name, zone := r.Header.Get(MemberHeader), r.Header.Get(ZoneHeader)
	for _, s := range []string{name, zone} {
		if len(s) > maxName || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
			return "", "", Violate(BadMember, "a name or zone of %d bytes: %.80q", len(s), s)
		}
	}
	return swarm.ID(name), zone, nil
}

// check tells whether a request's headers are such as members send.
func check(r *http.Request) (swarm.ID, error) {
	member, _, err := From(r)
	if err != nil {
		return "", err
	}
	if piece := r.Header.Get(PieceHeader); piece != "" && piece != pieceWanted {
		return "", Violate(BadPiece, "%s is %.40q", PieceHeader, piece)
	}
	if claim := r.Header.Get(ClaimHeader); len(claim) > maxClaim {
		return "", Violate(BadMessage, "a claim of %d bytes", len(claim))
	}
	return member, nil
}

// wholeSize gives the size of the whole blob that an answer is, or is a part of. It refuses answers to another range.
func wholeSize(resp *http.Response, off, end int64) (int64, error) {
	header := resp.Header.Get("Content-Range")
	r, ok := httpclient.ParseContentRange(header)
	switch {
	case resp.StatusCode != http.StatusPartialContent:
		r = httpclient.ContentRange{First: 0, Last: resp.ContentLength - 1, Total: resp.ContentLength}
		if off != 0 || end >= 0 || r.Total < 0 {
			return 0, Violate(BadRange, "%d bytes from the start are not what was asked for: [%d, %d)", r.Total, off, end)
		}
	case !ok || r.Total < 0 || r.First != off || end >= 0 && r.Last != min(end, r.Total)-1 || end < 0 && r.Last != r.Total-1:
		return 0, Violate(BadRange, "Content-Range %.80q is not what was asked for: [%d, %d)", header, off, end)
	case resp.ContentLength != r.Last-r.First+1:
		return 0, Violate(BadRange, "%d bytes for Content-Range %.80q", resp.ContentLength, header)
	}
	return r.Total, CheckSize(r.Total)
}

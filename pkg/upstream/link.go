package upstream

import (
	"net/url"
	"strings"
)

// maxLink bounds a Link header; longer ones are ignored.
const maxLink = 8 << 10

// nextLink finds the target of rel="next" among Link headers (RFC 8288), relative to the request's own URL. It is nil
// where there is none. A target at another origin or path is none: a list goes on where it began, and nothing that
// a registry says may send credentials elsewhere.
func nextLink(values []string, base *url.URL) *url.URL {
	for _, value := range values {
		if len(value) > maxLink {
			continue
		}
		for value != "" {
			_, rest, ok := strings.Cut(value, "<")
			if !ok {
				break
			}
			ref, params, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			isNext, after := linkParams(params)
			value = after
			if !isNext {
				continue
			}
			u, err := base.Parse(ref)
			if err != nil || !sameOrigin(u, base) || u.Path != base.Path {
				return nil
			}
			return u
		}
	}
	return nil
}

// linkParams reads the parameters of one link up to the comma that ends it, and says whether rel has "next".
func linkParams(s string) (next bool, rest string) {
	for {
		s = strings.TrimLeft(s, " \t")
		switch {
		case s == "":
			return next, ""
		case s[0] == ',':
			return next, s[1:]
		case s[0] == ';':
			s = s[1:]
			continue
		}
		end := strings.IndexAny(s, "=;,")
		if end < 0 {
			return next, ""
		}
		name := strings.ToLower(strings.TrimSpace(s[:end]))
		s = s[end:]
		if s[0] != '=' {
			continue
		}
		var value string
		value, s = linkValue(strings.TrimLeft(s[1:], " \t"))
		if name == "rel" {
			for rel := range strings.FieldsSeq(value) {
				next = next || strings.EqualFold(rel, "next")
			}
		}
	}
}

// linkValue reads a token or a quoted string.
func linkValue(s string) (value, rest string) {
	if s == "" || s[0] != '"' {
		end := strings.IndexAny(s, ";,")
		if end < 0 {
			return strings.TrimSpace(s), ""
		}
		return strings.TrimSpace(s[:end]), s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			i++
			if i == len(s) {
				return b.String(), ""
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

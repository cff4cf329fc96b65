package config

import (
	"regexp"
	"strings"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// maxPattern bounds a pattern: a name has two parts of 255 characters and a tag of 128.
const maxPattern = 640

// patternGrammar is what names are made of, and *.
var patternGrammar = regexp.MustCompile(`^[A-Za-z0-9._:/\[\]*-]+$`)

// MutableTag tells whether upstream is to be asked first for a tag, by its full name with registry and tag, as
// reference.Reference writes it.
func (t *Tags) MutableTag(name string) bool {
	for _, pattern := range t.Mutable {
		if match(pattern, name) {
			return true
		}
	}
	return false
}

// match compares a whole name with a pattern, in which * stands for any characters, or none.
func match(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return pattern == name
	}
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(name, part) // The first place leaves most room for the parts that follow.
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return true
}

// checkPattern says what is wrong with a pattern of tags, if anything. What no tag can be called is a mistake that
// nobody would notice otherwise.
func checkPattern(pattern string) string {
	switch {
	case pattern == "":
		return `is empty, expected a pattern such as "*:latest"`
	case len(pattern) > maxPattern || !patternGrammar.MatchString(pattern):
		return "is " + quote(pattern) + `, expected the characters of names and *, as "quay.io/org/*:main"`
	case strings.Contains(pattern, "*"):
		return ""
	}
	ref, err := reference.Parse(pattern)
	if err != nil {
		return err.Error()
	}
	if ref.String() != pattern {
		return "is " + quote(pattern) + ", which no tag's whole name is: write " + quote(ref.String())
	}
	return ""
}

// Package pattern owns the patterns by which configuration names registries, repositories and tags.
//
// A pattern is written as the name is, and * stands for any characters, or none. It is compared part by part: what
// stands for a registry never reaches into the repository, so that nobody gets under a rule by calling a repository as
// somebody else's registry is called.
package pattern

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// maxLength bounds a pattern: a name has two parts of 255 characters and a tag of 128.
const maxLength = 640

var (
	hostGrammar = regexp.MustCompile(`^[A-Za-z0-9._:\[\]*-]+$`)
	pathGrammar = regexp.MustCompile(`^[a-z0-9._/*-]+$`)
	tagGrammar  = regexp.MustCompile(`^[A-Za-z0-9._*-]+$`)
)

// Pattern tells repositories, or tags of repositories, from others. The zero value matches nothing. It is immutable.
type Pattern struct {
	host, path, tag string
	hub             bool // The host fits one of Docker Hub's names: who denies "*.docker.io" means Docker Hub.
}

// Any matches every repository.
func Any() Pattern { return Pattern{host: "*", path: "*", hub: true} }

func ofHost(host, path string) Pattern {
	hub := slices.ContainsFunc(reference.NamesOf(reference.DockerHub), func(name string) bool {
		_, ok := match(host, name)
		return ok
	})
	return Pattern{host: host, path: path, hub: hub}
}

// Parse reads a pattern of repositories: "quay.io" is all of a registry's, "quay.io/org/*" some of them, "*" all.
func Parse(s string) (Pattern, error) {
	host, path, below := strings.Cut(s, "/")
	switch {
	case s == "":
		return Pattern{}, fmt.Errorf(`is empty, expected a pattern such as quay.io or "quay.io/org/*"`)
	case len(s) > maxLength || !hostGrammar.MatchString(host) || below && !pathGrammar.MatchString(path):
		return Pattern{}, fmt.Errorf(`is %s, expected a registry and perhaps a repository, with * for any characters, as "quay.io/org/*"`, quote(s))
	}
	host, err := parseHost(s, host)
	if err != nil {
		return Pattern{}, err
	}
	if !below {
		return ofHost(host, "*"), nil
	}
	if !strings.Contains(path, "*") {
		if err := reference.CheckPath(path); err != nil {
			return Pattern{}, err
		}
		if host == reference.DockerHub && !strings.Contains(path, "/") {
			return Pattern{}, fmt.Errorf("is %s, which no repository's whole name is: write %s", quote(s), quote(host+"/library/"+path))
		}
	}
	return ofHost(host, path), nil
}

// parseHost reads the registry of the pattern s. It is brought into the form that names have, so that no rule is passed
// by with another spelling; and what no name can have any more is refused, so that no rule holds for nothing.
func parseHost(s, host string) (string, error) {
	if strings.Contains(host, "*") {
		if strings.HasSuffix(host, ":443") {
			return "", fmt.Errorf("is %s, but https' own port is no part of a registry's name: leave it out", quote(s))
		}
		if strings.HasSuffix(host, ".") {
			return "", fmt.Errorf("is %s, but registries' names have no dot at their end: leave it out", quote(s))
		}
		return strings.ToLower(host), nil
	}
	name, err := reference.ParseRegistry(host)
	if err != nil {
		return "", err
	}
	if !strings.ContainsAny(name, ".:") && name != "localhost" {
		return "", fmt.Errorf("is %s, but no image can name a registry %s: begin with one, such as docker.io/library", quote(s), quote(host))
	}
	return name, nil
}

// ParseTag reads a pattern of tags: one of repositories, a colon and one of tag names, as "*:latest".
func ParseTag(s string) (Pattern, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.Contains(s[i:], "/") || strings.HasSuffix(s, "]") {
		return Pattern{}, fmt.Errorf(`is %s, expected a repository and a tag with a colon between them, as "quay.io/org/*:main"`, quote(s))
	}
	name, tag := s[:i], s[i+1:]
	if _, err := strconv.ParseUint(tag, 10, 16); err == nil && !strings.Contains(name, "/") && name != "*" {
		return Pattern{}, fmt.Errorf("is %s, which could be a registry with a port: write %s or %s", quote(s), quote(s+":*"), quote(name+"/*:"+tag))
	}
	p, err := Parse(name)
	if err != nil {
		return Pattern{}, err
	}
	switch {
	case !tagGrammar.MatchString(tag):
		return Pattern{}, fmt.Errorf(`is %s, whose tag is not of the characters of tags and *, as "*:latest"`, quote(s))
	case !strings.Contains(tag, "*"):
		if _, err := reference.ParseTag(tag); err != nil {
			return Pattern{}, err
		}
	}
	p.tag = tag
	return p, nil
}

// String writes the pattern as Parse and ParseTag read it.
func (p Pattern) String() string {
	s := p.host
	if p.path != "*" {
		s += "/" + p.path
	}
	if p.tag != "" {
		s += ":" + p.tag
	}
	return s
}

// Repository tells whether a repository matches, whatever the tag, and what the last * of the repository's part stands
// for; without one that is the whole path.
func (p Pattern) Repository(repo reference.Repository) (rest string, ok bool) {
	if !p.fits(repo.Registry) {
		return "", false
	}
	if !strings.Contains(p.path, "*") {
		return repo.Path, p.path == repo.Path
	}
	return match(p.path, repo.Path)
}

// Registry tells whether all repositories of a registry match.
func (p Pattern) Registry(host string) bool {
	return p.fits(host) && strings.Trim(p.path, "*") == "" && p.path != ""
}

// fits tells whether the registry's part fits a registry, by any of its names.
func (p Pattern) fits(registry string) bool {
	if registry == reference.DockerHub {
		return p.hub
	}
	_, ok := match(p.host, registry)
	return ok
}

// Tag tells whether a tag of a repository matches.
func (p Pattern) Tag(ref reference.Reference) bool {
	if _, ok := p.Repository(ref.Repository); !ok || ref.Tag == "" {
		return false
	}
	_, ok := match(p.tag, ref.Tag)
	return ok
}

// Hosts is a list of patterns of hosts, with a port where it is not the scheme's own.
type Hosts []string

// CheckHost says what is wrong with a pattern of hosts.
func CheckHost(s string) error {
	if len(s) > maxLength || !hostGrammar.MatchString(s) {
		return fmt.Errorf(`is %s, expected a host with * for any characters, as "*.example.com" or "files.example.com:8443"`, quote(s))
	}
	return nil
}

// Match tells whether one of the patterns matches a host.
func (h Hosts) Match(host string) bool {
	for _, p := range h {
		if _, ok := match(strings.ToLower(p), strings.ToLower(host)); ok {
			return true
		}
	}
	return false
}

// match compares a whole text with a pattern, in which * stands for any characters, or none. rest is what the last *
// stands for.
func match(pattern, text string) (rest string, ok bool) {
	switch { // Nearly all patterns are of these kinds, and every request is compared with them.
	case pattern == "*":
		return text, true
	case !strings.Contains(pattern, "*"):
		return "", pattern != "" && pattern == text
	}
	parts := strings.Split(pattern, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return "", false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part) // The first place leaves most room for the parts that follow.
		if i < 0 {
			return "", false
		}
		text = text[i+len(part):]
	}
	return text, true
}

// quote makes outside input safe and short enough for an error message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

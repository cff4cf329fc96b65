package reference

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	dref "github.com/distribution/reference"
	"golang.org/x/net/idna"
)

// hubNames are the names that Docker Hub goes by. All of them answer with the same content, and docker login writes
// the first.
var hubNames = []string{"index.docker.io", DockerHub, hubServer, "registry.hub.docker.com"}

const hubServer = "registry-1.docker.io"

var (
	hostGrammar    = regexp.MustCompile(`^` + dref.DomainRegexp.String() + `$`)
	numericGrammar = regexp.MustCompile(`^(?:[0-9]+|0[xX][0-9a-fA-F]*)$`)
)

// ParseRegistry gives the one name of a registry's host, with a port where it is not the scheme's own. Rules, memories
// and credentials compare names, so whoever may choose the spelling must not choose the name by it. Letters are small,
// addresses are in their shortest form, IPv4 in IPv6's clothes is IPv4, a dot at the end goes, and names of other
// scripts are in that of DNS. Docker Hub is docker.io.
//
// Numbers that some resolvers take for an address, as 0x7f.1, are no names. No domain ends in one.
func ParseRegistry(host string) (string, error) {
	name, err := parseHost(host, "")
	if err != nil {
		return "", err
	}
	if slices.Contains(hubNames, name) {
		return DockerHub, nil
	}
	return name, nil
}

// URLHost gives a URL's host in the same form, with its port where that is not the URL's scheme's own.
func URLHost(u *url.URL) (string, error) {
	own := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return parseHost(u.Host, own)
}

// AsWritten checks a registry's host, and gives it as names of images have it. containerd keeps what it knows of a
// registry under that, and takes the name with https' own port for another one.
func AsWritten(host string) (string, error) {
	name, err := ParseRegistry(host)
	if err != nil {
		return "", err
	}
	if !hostGrammar.MatchString(host) {
		return name, nil // No image's name has it so.
	}
	if host = strings.ToLower(host); host == hubNames[0] {
		return DockerHub, nil
	}
	return host, nil
}

// NamesOf gives all names that a registry goes by, for what was written by somebody who chose one of them.
func NamesOf(registry string) []string {
	if registry == DockerHub {
		return slices.Clone(hubNames)
	}
	return []string{registry}
}

// parseHost brings a host with an optional port into its one form. own is the port that goes without saying; if it is
// empty, that is the one of the scheme by which such a registry is asked.
func parseHost(s, own string) (string, error) {
	refused := func() (string, error) {
		return "", invalid(CodeNameInvalid, "registry %s is not a host with an optional port", quote(s))
	}
	switch {
	case len(s) > maxNameLength:
		return refused()
	case plainHost(s) && !numeric(s):
		return s, nil
	}
	host, port, hasPort := s, "", false
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port, hasPort = s[:i], s[i+1:], true
	}
	host, ok := canonical(host)
	if !ok || hasPort && strings.Trim(port, "0123456789") != "" || hasPort && port == "" {
		return refused()
	}
	if !hasPort {
		return host, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", invalid(CodeNameInvalid, "registry %s has a port that is not between 1 and 65535", quote(s))
	}
	if own == "" {
		own = "443"
		if IsLoopback(host) {
			own = "80"
		}
	}
	if port = strconv.FormatUint(n, 10); port == own {
		return host, nil
	}
	return host + ":" + port, nil
}

// numeric tells whether a host ends in a number, and so is an address or nothing.
func numeric(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && last[0] >= '0' && last[0] <= '9' && numericGrammar.MatchString(last)
}

// canonical brings a host without a port into its one form.
func canonical(host string) (string, bool) {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		switch {
		case !ok || err != nil || !addr.Is6() || addr.Zone() != "":
			return "", false
		case addr.Is4In6():
			return addr.Unmap().String(), true
		}
		return "[" + addr.String() + "]", true
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r > '~' }) {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil || !utf8.ValidString(host) || len(ascii) > maxNameLength {
			return "", false
		}
		host = ascii
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.ContainsAny(host, ":[") || !hostGrammar.MatchString(host) {
		return "", false
	}
	if numeric(host) {
		addr, err := netip.ParseAddr(host)
		return host, err == nil && addr.Is4()
	}
	return host, true
}

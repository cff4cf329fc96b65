package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/reach"
	"github.com/kioo-dev/kioo/pkg/reference"
)

func newForeign(cfg config.ForeignLayers) Foreign {
	f := Foreign{action: cfg.Action, Share: cfg.Share, hosts: cfg.Hosts, Networks: config.Prefixes(cfg.Networks), schemes: []string{"https"}}
	if cfg.AllowHTTP {
		f.schemes = append(f.schemes, "http")
	}
	return f
}

// Redirects tells whether clients are sent to the urls.
func (f Foreign) Redirects() bool { return f.action == config.ForeignRedirect }

// Check says why a foreign layer's url may not be used, if it may not. What its host resolves to is checked when it is
// dialled, by Address.
func (f Foreign) Check(u *url.URL) error {
	host, wrong := reference.URLHost(u)
	switch {
	case f.action == config.ForeignRefuse:
		return errors.New("foreignLayers.action is refuse")
	case !slices.Contains(f.schemes, u.Scheme):
		return fmt.Errorf("scheme %q is not one of %s", u.Scheme, strings.Join(f.schemes, ", "))
	case u.User != nil || u.Opaque != "" || wrong != nil:
		return errors.New("url has a user name or no host")
	case !f.hosts.Match(host):
		return fmt.Errorf("host %q is not in foreignLayers.hosts", host)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return f.Address(addr)
	}
	return nil
}

// Address says why an address may not be dialled for a foreign layer, if it may not.
func (f Foreign) Address(addr netip.Addr) error { return reach.Check(addr, reach.Public, f.Networks) }

// nonDistributable are the words in media types that say so.
var nonDistributable = []string{".nondistributable.", ".foreign."}

// NonDistributable tells whether a media type says that content may not be passed on.
func NonDistributable(mediaType string) bool {
	return slices.ContainsFunc(nonDistributable, func(word string) bool { return strings.Contains(mediaType, word) })
}

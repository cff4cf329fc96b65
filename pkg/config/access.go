package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/pattern"
)

// The modes of access.
const (
	// AccessAuto uses the node's own credentials, and relays where these are refused.
	AccessAuto = "auto"
	// AccessRelay uses clients' credentials alone.
	AccessRelay = "relay"
	// AccessVerify is AccessRelay that gives nothing on trust.
	AccessVerify = "verify"
	// AccessOwn uses the node's own credentials alone, for everybody.
	AccessOwn = "own"
)

// Access configures who may read what.
type Access struct {
	// Mode is whose credentials count. auto: the node's own, or nobody's; what upstream refuses to these, it gives to
	// clients that bring credentials which it accepts, and so do this node and its cache. relay: the same without the
	// node's own. verify: the same as relay, and while upstream can't be asked nothing is given that is not known to be
	// for everybody. own: the node's own, for every client, without checks. Default: auto.
	Mode string `yaml:"mode"`
	// Rules say for which repositories another mode counts. The first that matches wins. Default: none.
	Rules []AccessRule `yaml:"rules"`
	// RelayPathForm are patterns of repositories, as in rules, whose challenges are passed on to clients that say the
	// registry in the path, or not at all, and for which these clients' credentials are passed on to upstream. Such
	// clients have one password for all registries, and the first that asks gets it: name the one that it is for. All
	// others are answered 403 to them where upstream wants credentials. Clients that say the registry by ns, as
	// containerd does, need nothing of this. Default: none.
	RelayPathForm []string `yaml:"relayPathForm"`
	// AcceptedFor is how long upstream's yes to a client's credentials counts for a repository. Longer spares requests;
	// shorter sees sooner that somebody may read no more. Default: 5m.
	AcceptedFor time.Duration `yaml:"acceptedFor"`
	// RefusedFor is how long upstream's no counts. Longer spares requests; shorter sees sooner that somebody may read
	// now. Default: 30s.
	RefusedFor time.Duration `yaml:"refusedFor"`
	// OpenFor is how long a repository that everybody may read is taken for one, and one that not everybody may read for
	// that, before upstream is asked again. Default: 1h.
	OpenFor time.Duration `yaml:"openFor"`
	// OfflineFor is how long after upstream was first found unreachable content that needs credentials is given to
	// everybody, so that pods start meanwhile. 0s gives none of it. Default: 0s.
	OfflineFor time.Duration `yaml:"offlineFor"`
	// Realms are hosts of token services at addresses that are not public, which the mirror may ask for tokens for
	// everybody. Without that, such registries have every client ask for itself. A registry's own host is always
	// allowed, and so is everything that the node's own credentials are for. Default: none.
	Realms []string `yaml:"realms"`
}

// AccessRule configures who may read some repositories.
type AccessRule struct {
	// Match is the pattern of what the rule is for, as in registries: registry.example.com, or a part of it,
	// "registry.example.com/team/*". Required.
	Match string `yaml:"match"`
	// Mode is auto, relay, verify or own, as above. Required.
	Mode string `yaml:"mode"`
}

func defaultAccess() Access {
	return Access{Mode: AccessAuto, AcceptedFor: 5 * time.Minute, RefusedFor: 30 * time.Second, OpenFor: time.Hour}
}

func (a *Access) validate(v *validation) {
	const s, m, h = time.Second, time.Minute, time.Hour
	mode := func(field, value string) {
		if wrong := oneOf(value, AccessAuto, AccessRelay, AccessVerify, AccessOwn); wrong != "" {
			v.add(field, "%s", wrong)
		}
	}
	mode("access.mode", a.Mode)
	for i, r := range a.Rules {
		field := fmt.Sprintf("access.rules[%d]", i)
		if p, err := pattern.Parse(r.Match); err != nil {
			v.add(field+".match", "%v", err)
		} else {
			a.Rules[i].Match = p.String()
		}
		mode(field+".mode", r.Mode)
	}
	for i, match := range a.RelayPathForm {
		p, err := pattern.Parse(match)
		if err != nil {
			v.add(fmt.Sprintf("access.relayPathForm[%d]", i), "%v", err)
			continue
		}
		a.RelayPathForm[i] = p.String()
	}
	v.unique("access.relayPathForm", a.RelayPathForm)
	within(v, "access.acceptedFor", a.AcceptedFor, s, h)
	within(v, "access.refusedFor", a.RefusedFor, s, h)
	within(v, "access.openFor", a.OpenFor, s, 7*24*h)
	within(v, "access.offlineFor", a.OfflineFor, 0, 30*24*h)
	for i, host := range a.Realms {
		a.Realms[i] = strings.ToLower(strings.TrimSuffix(host, "."))
		if wrong := checkName(host); wrong != "" {
			v.add(fmt.Sprintf("access.realms[%d]", i), "%s", wrong)
		}
	}
}

package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kioo-dev/kioo/pkg/reference"
)

var (
	// namespaceGrammar is containerd's grammar of identifiers.
	namespaceGrammar = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)
	// zoneGrammar is that of a Kubernetes label's value.
	zoneGrammar = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	nameGrammar = regexp.MustCompile(`^(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*` +
		`[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.?$`)
)

// maxNamespace is the length that containerd allows; a zone has no more than a label's value.
const maxNamespace, maxZone = 76, 63

// unique notes entries of a list that are there twice.
func (v *validation) unique(field string, list []string) {
	seen := make(map[string]int)
	for i, s := range list {
		if first, ok := seen[s]; ok {
			v.add(fmt.Sprintf("%s[%d]", field, i), "is %s, as %s[%d] is", quote(s), field, first)
			continue
		}
		seen[s] = i
	}
}

func (c *Config) validateContainerd(v *validation) {
	r := &c.Containerd
	for _, p := range []struct{ field, path string }{
		{"address", r.Address}, {"contentDir", r.ContentDir}, {"certsDir", r.CertsDir}, {"configFile", r.ConfigFile},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			v.add("containerd."+p.field, "is %s, expected an absolute path", quote(p.path))
		}
	}
	if r.ConfigFile == "" {
		v.add("containerd.configFile", "is empty, expected a path: leave the field out for its default")
	}
	if r.ContentDir != "" && r.Address == "" {
		v.add("containerd.contentDir", "is of no use without containerd.address, which says what its blobs are called")
	}
	if len(r.Namespaces) == 0 {
		v.add("containerd.namespaces", "is empty, expected at least one, such as k8s.io")
	}
	for i, n := range r.Namespaces {
		if len(n) > maxNamespace || !namespaceGrammar.MatchString(n) {
			v.add(fmt.Sprintf("containerd.namespaces[%d]", i), "is %s, not a namespace such as k8s.io", quote(n))
		}
	}
	v.unique("containerd.namespaces", r.Namespaces)
	for i, host := range r.Registries {
		field := fmt.Sprintf("containerd.registries[%d]", i)
		if host == AnyRegistry {
			v.add(field, "is %s: leave the list empty for all registries", quote(host))
			continue
		}
		normal, err := reference.AsWritten(host)
		if err != nil {
			v.add(field, "%v", err)
			continue
		}
		r.Registries[i] = normal
	}
	v.unique("containerd.registries", r.Registries)
	if r.CertsDir != "" && c.Mirror.PathPrefix != "" {
		v.add("mirror.pathPrefix", "is %s, which the hosts.toml files in containerd.certsDir can't have",
			quote(c.Mirror.PathPrefix))
	}
}

func (p *Peers) validate(v *validation) {
	for i, file := range p.KeyFiles {
		if file == "" {
			v.add(fmt.Sprintf("peers.keyFiles[%d]", i), "is empty, expected a file's name")
		}
	}
	v.unique("peers.keyFiles", p.KeyFiles)
	everywhere := v.addresses("peers.listen", p.Listen, PeerPort)
	for i, address := range p.Advertise {
		if wrong := checkHostPort(address); wrong != "" {
			v.add(fmt.Sprintf("peers.advertise[%d]", i), "%s", wrong)
		}
	}
	v.unique("peers.advertise", p.Advertise)
	if len(p.Advertise) > maxAddresses {
		v.add("peers.advertise", "has %d entries, more than %d", len(p.Advertise), maxAddresses)
	}
	if everywhere >= 0 && len(p.Advertise) == 0 {
		v.add(fmt.Sprintf("peers.listen[%d]", everywhere), "is %s, so others need to be told an address of this node: "+
			"listen on one, or name it in peers.advertise", quote(p.Listen[everywhere]))
	}
	if p.Zone != "" && (len(p.Zone) > maxZone || !zoneGrammar.MatchString(p.Zone)) {
		v.add("peers.zone", "is %s, not a zone such as eu-central-1a", quote(p.Zone))
	}
	within(v, "peers.uploadSlots", p.UploadSlots, 1, 4096)
	within(v, "peers.uploadQueue", p.UploadQueue, 1, 65536)
	for _, limit := range []struct {
		field string
		value Bytes
	}{
		{"peers.maxUploadBytesPerSecond", p.MaxUploadBytesPerSecond},
		{"peers.maxDownloadBytesPerSecond", p.MaxDownloadBytesPerSecond},
	} {
		if limit.value != 0 {
			within(v, limit.field, limit.value, Bytes(64<<10), 1<<50)
		}
	}
}

func (c *Config) validateDiscovery(v *validation) {
	d := &c.Discovery
	if everywhere := v.addresses("discovery.listen", d.Listen, DiscoveryPort); everywhere >= 0 {
		v.add(fmt.Sprintf("discovery.listen[%d]", everywhere), "is %s, and others would be told every address of this "+
			"machine, bridges too: name those that they can reach", quote(d.Listen[everywhere]))
	}
	b := &d.Bootstrap
	for i, address := range b.Addresses {
		field := fmt.Sprintf("discovery.bootstrap.addresses[%d]", i)
		ap, err := parseAddress(address, DiscoveryPort)
		switch {
		case err != nil:
			v.add(field, "%v", err)
		case ap.Port() == 0 || ap.Addr().IsUnspecified():
			v.add(field, "is %s, where nobody can be reached", quote(address))
		default:
			b.Addresses[i] = ap.String()
		}
	}
	v.unique("discovery.bootstrap.addresses", b.Addresses)
	v.bootstrapName(b.DNS)
	if len(c.Peers.KeyFiles) == 0 {
		return
	}
	if len(c.Peers.Listen) == 0 {
		v.add("peers.listen", "is missing, required with peers.keyFiles: an address of this node that other members reach")
	}
	if len(d.Listen) == 0 {
		v.add("discovery.listen", "is missing, required with peers.keyFiles: an address of this node that other members reach")
	}
}

func (v *validation) bootstrapName(dns string) {
	const field = "discovery.bootstrap.dns"
	if dns == "" {
		return
	}
	if strings.Contains(dns, ":") {
		wrong := checkHostPort(dns)
		if _, err := netip.ParseAddrPort(dns); wrong == "" && err == nil {
			wrong = "is " + quote(dns) + ", an address: put it into discovery.bootstrap.addresses"
		}
		if wrong != "" {
			v.add(field, "%s", wrong)
		}
		return
	}
	if wrong := checkName(dns); wrong != "" {
		v.add(field, "%s", wrong)
	} else if !strings.HasPrefix(dns, "_") {
		v.add(field, "is %s, without a port and so to be looked up for SRV records, whose names begin with _: "+
			"write \"%s:%d\", or a name such as _dht._tcp.%s", quote(dns), dns, DiscoveryPort, dns)
	}
}

// addresses checks addresses of this node that other members are to reach, and writes them in one form. It returns the
// index of the first that is unspecified, -1 without one.
func (v *validation) addresses(field string, list []string, port uint16) (everywhere int) {
	everywhere = -1
	for i, address := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		ap, err := parseAddress(address, port)
		if err != nil {
			v.add(at, "%v", err)
			continue
		}
		list[i] = ap.String()
		if ap.Addr().IsUnspecified() && everywhere < 0 {
			everywhere = i
		}
		v.take(at, list[i])
	}
	if len(list) > maxAddresses {
		v.add(field, "has %d entries, more than %d", len(list), maxAddresses)
	}
	return everywhere
}

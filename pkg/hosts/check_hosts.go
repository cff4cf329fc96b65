package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

const mendConfigure = "Run: kioo configure"

// checkHosts looks at the hosts.toml of each directory that shall have the mirror.
func (c *checker) checkHosts() {
	p := pass{cfg: c.cfg.Config, store: store{root: c.cfg.Root}}
	if _, err := os.Stat(c.cfg.Root); err != nil {
		c.add("hosts-missing", Problem, fmt.Sprintf("the registry directory can't be read: %v", err),
			"Containerd finds no mirror there.", mendConfigure)
		return
	}
	targets, err := p.targets()
	if err != nil {
		c.add("hosts-missing", Problem, err.Error(), "Containerd finds no mirror there.", mendConfigure)
		return
	}
	order, err := p.order(targets)
	if err != nil {
		c.add("hosts-missing", Problem, err.Error(), "Kioo's records can't be read.", "Mend the permissions.")
		return
	}
	slices.Sort(order)
	for _, name := range order {
		if targets[name] {
			c.checkDir(p, name)
		}
	}
}

// checkDir looks at one directory.
func (c *checker) checkDir(p pass, name string) {
	path := filepath.Join(c.cfg.NodeRoot, name, hostsName)
	who := "the registry " + name
	if name == defaultDir {
		who = "all registries without a directory of their own"
	}
	why := "Pulls of " + who + " go upstream without asking the mirror."
	now, err := readFile(filepath.Join(p.path(name), hostsName))
	switch {
	case err != nil:
		c.add("hosts-unreadable", Problem, fmt.Sprintf("%s can't be read: %v", path, err), why, "Make it a readable file.")
		return
	case len(now.Data) == 0:
		c.add("hosts-missing", Problem, path+" is missing or empty", why, mendConfigure)
		return
	}
	doc, err := parse(now.Data)
	if err != nil {
		c.add("hosts-invalid", Problem, fmt.Sprintf("%s is not valid: %v", path, err),
			"Containerd ignores the whole file, what it says of the upstream included, and logs one line. Kioo does not "+
				"touch such files.", "Correct the file. Then "+strings.ToLower(mendConfigure[:1])+mendConfigure[1:])
		return
	}
	if len(doc.hosts) == 0 || !reflect.DeepEqual(doc.hosts[0], mirrorEndpoint(c.cfg.Mirror)) {
		what := path + " does not have the mirror " + c.cfg.Mirror
		mend := mendConfigure
		if slices.ContainsFunc(doc.hosts, func(e endpoint) bool { return sameMirror(e.name, []string{c.cfg.Mirror}) }) {
			what = path + " has the mirror " + c.cfg.Mirror + ", but not first or not with exactly " + capabilitiesLine
		}
		if _, err := merge(now.Data, c.cfg.Mirror); err != nil {
			mend = "Kioo can't do it: " + err.Error() + ". Correct the file. Then run: kioo configure"
		}
		c.add("mirror-not-first", Problem, what, why, mend)
	}
	c.checkVersions(path, doc)
	c.checkCertificates(p.path(name), path, doc)
}

// checkVersions finds what this containerd does not understand.
func (c *checker) checkVersions(path string, doc document) {
	for _, e := range append(slices.Clone(doc.hosts), doc.root) {
		if c.version.before(2, 2) && slices.Contains(e.capabilities, "referrers") {
			c.add("capability-unknown", Problem, fmt.Sprintf("%s has the capability \"referrers\"", path),
				"Containerd before 2.2 does not know it and ignores the whole file.", "Take it out of the capabilities.")
		}
		if c.version == (version{2, 0}) && e.dialTimeout != "" && strings.HasPrefix(e.name, "http://") {
			c.add("dial-timeout", Warning, fmt.Sprintf("%s has a dial_timeout for %s", path, e.name),
				"It makes containerd 2.0 try TLS first at an address that has none.", "Remove the dial_timeout.")
		}
	}
}

// checkCertificates finds files that are named but missing: one is enough to fail every pull of the registry.
func (c *checker) checkCertificates(dir, path string, doc document) {
	seen := map[string]bool{}
	for _, e := range append(slices.Clone(doc.hosts), doc.root) {
		files := slices.Clone(e.ca)
		for _, pair := range e.client {
			files = append(files, pair[0], pair[1])
		}
		for _, f := range files {
			if f == "" || seen[f] {
				continue
			}
			seen[f] = true
			if _, err := os.Stat(c.certificate(dir, f)); err != nil {
				c.add("certificate-missing", Problem, fmt.Sprintf("%s names %s, which can't be read: %v", path, f, err),
					"Every pull that this file is for fails.", "Put the file there, or take its name out.")
			}
		}
	}
}

// certificate gives the path under which this process sees a certificate's file.
func (c *checker) certificate(dir, name string) string {
	if !filepath.IsAbs(name) {
		return filepath.Join(dir, name)
	}
	if rel, err := filepath.Rel(c.cfg.NodeRoot, name); err == nil && !strings.HasPrefix(rel, "..") {
		return filepath.Join(c.cfg.Root, rel)
	}
	return c.onHost(name)
}

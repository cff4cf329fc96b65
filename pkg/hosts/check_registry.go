package hosts

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// checkContainerdConfig looks at what containerd's own configuration says of registries.
func (c *checker) checkContainerdConfig() settings {
	s := c.readSettings()
	if !s.found && slices.ContainsFunc(c.findings, func(f Finding) bool { return f.ID == "config-unreadable" }) {
		return s
	}
	if i := slices.IndexFunc(s.disabled, func(id string) bool {
		return id == "cri" || id == sectionV2 || id == sectionV3
	}); i >= 0 {
		c.add("cri-disabled", Problem, fmt.Sprintf("disabled_plugins lists %q", s.disabled[i]),
			"Containerd serves no Kubernetes like this; Docker's packages ship it so.",
			"Take it out of disabled_plugins in "+c.cfg.ContainerdConfig+" and restart containerd.")
	}
	if s.found && s.fileVersion < 2 {
		c.add("config-old", Warning, fmt.Sprintf("%s has version %d", c.cfg.ContainerdConfig, s.fileVersion),
			"Containerd 2.x reads it after a migration only.", "Run: containerd config migrate")
	}
	if s.importsDiffer {
		c.add("imports-differ", Warning, "the files that containerd's configuration imports set parts of one section",
			"Containerd 1.x takes a plugin's section from the last file that has it; 2.x merges them. Which holds here "+
				"depends on its version.",
			"Write the whole section into one file.")
	}
	c.checkConflicts(s)
	c.checkConfigPath(s)
	if discards(s) {
		c.add("layers-discarded", Note, "discard_unpacked_layers = true",
			"Containerd drops each layer once it is unpacked, so that others can't have it from there. Kioo keeps layers "+
				"in its own cache on this node, as far as that is large enough.",
			"To save the second copy, set discard_unpacked_layers = false and restart containerd.")
	}
	return s
}

func discards(s settings) bool {
	b, _ := s.images["discard_unpacked_layers"].(bool)
	return b
}

// checkConflicts finds the older ways to configure registries, which exclude config_path.
func (c *checker) checkConflicts(s settings) {
	registry := sub(s.images, "registry")
	path := text(registry, "config_path")
	if mirrors := sub(registry, "mirrors"); len(mirrors) > 0 {
		what := "registry.mirrors is set for " + names(mirrors)
		why := "It is the older way, and containerd does not read hosts.toml beside it."
		if path != "" {
			what += ", and config_path too"
			why = "Containerd accepts only one of them: its CRI plugin fails to start with both."
		}
		c.add("mirrors-conflict", Problem, what, why,
			"Remove the registry.mirrors tables, and write what they say as hosts.toml files in "+c.cfg.NodeRoot+
				`: endpoint = ["https://a"] of registry r becomes [host."https://a"] in `+
				filepath.Join(c.cfg.NodeRoot, "r", hostsName)+". Then restart containerd.")
	}
	var withTLS []string
	for name, value := range sub(registry, "configs") {
		if t, _ := value.(tree); sub(t, "tls") != nil {
			withTLS = append(withTLS, name)
		}
	}
	slices.Sort(withTLS)
	if len(withTLS) > 0 {
		severity := Problem
		why := "Containerd 1.x refuses this beside config_path: its CRI plugin fails to start. 2.x ignores it."
		if !c.version.before(2, 0) && c.version.known() {
			severity, why = Warning, "Containerd 2.x ignores it."
		}
		c.add("tls-conflict", severity, "registry.configs has tls for "+strings.Join(withTLS, ", "), why,
			"Move ca, client and skip_verify into "+filepath.Join(c.cfg.NodeRoot, withTLS[0], hostsName)+
				", remove the tls tables, and restart containerd.")
	}
}

func names(t tree) string { return strings.Join(slices.Sorted(maps.Keys(t)), ", ") }

// checkConfigPath looks whether containerd reads the directory that we write.
func (c *checker) checkConfigPath(s settings) {
	path := text(s.images, "registry", "config_path")
	mend := c.mendConfigPath(s)
	if s.misplaced && path == "" {
		c.add("config-path-misplaced", Problem,
			fmt.Sprintf("config_path is below %q in a file of version %d", sectionV2, s.fileVersion),
			"That section belongs to version 2; most versions of containerd 2 ignore it here without a word.", mend)
		return
	}
	if path == "" {
		why := "Containerd before 2.2 then reads no hosts.toml at all; since 2.2 it takes two directories, which its own " +
			"way of pulling reads as one that does not exist."
		switch {
		case c.version.before(2, 2):
			why = "Containerd then reads no hosts.toml at all."
		case c.version.known():
			why = "Containerd then takes two directories, which its way of pulling reads as one that does not exist: no " +
				"hosts.toml is used."
		}
		severity := Problem
		if c.version.known() && !c.version.before(2, 2) && pullsLocally(s) && c.cfg.NodeRoot == DefaultRoot {
			severity = Warning
			why = "Containerd's default is used, two directories. That works only because another setting makes it pull in " +
				"its older way."
		}
		c.add("config-path-missing", severity, "config_path is not set", why, mend)
		return
	}
	list := filepath.SplitList(path)
	here := slices.IndexFunc(list, func(p string) bool { return filepath.Clean(p) == filepath.Clean(c.cfg.NodeRoot) })
	if here < 0 {
		c.add("config-path-elsewhere", Problem,
			fmt.Sprintf("config_path is %q, but the mirror is written to %s", path, c.cfg.NodeRoot),
			"Containerd does not read what Kioo writes.",
			"Let Kioo write to that directory, or set config_path.\n"+mend)
		return
	}
	if len(list) == 1 {
		return
	}
	switch {
	case c.version.before(2, 1):
		if here > 0 {
			c.add("config-path-doubled", Warning,
				fmt.Sprintf("config_path has %d directories, and %s is not the first", len(list), c.cfg.NodeRoot),
				"A registry that has a directory in an earlier one does not go through the mirror.", mend)
		}
	case c.version.known() && pullsLocally(s):
		c.add("config-path-doubled", Warning, fmt.Sprintf("config_path is %q: %d directories", path, len(list)),
			"This works only because another setting makes containerd pull in its older way.", mend)
	default:
		c.add("config-path-doubled", Problem, fmt.Sprintf("config_path is %q: %d directories", path, len(list)),
			"Containerd since 2.1 reads this as the name of one directory, which does not exist: no hosts.toml is used, "+
				"and nothing is logged.", mend)
	}
}

// pullsLocally says that containerd 2.1 or later does not use its transfer service for pulls.
func pullsLocally(s settings) bool {
	flag := func(key string) bool { b, _ := s.images[key].(bool); return b }
	registry := sub(s.images, "registry")
	downloads, set := s.images["max_concurrent_downloads"].(int64)
	annotations, annotationsSet := s.images["disable_snapshot_annotations"].(bool)
	return flag("use_local_image_pull") || flag("discard_unpacked_layers") || flag("image_pull_with_sync_fs") ||
		len(sub(registry, "mirrors")) > 0 || len(sub(registry, "configs")) > 0 || len(sub(registry, "auths")) > 0 ||
		set && downloads != 3 || annotationsSet && !annotations
}

// mendConfigPath gives the lines that make containerd read our directory. Those of version 2 work for every
// containerd, so they are the ones for a file that has yet to be written where the version is unknown.
func (c *checker) mendConfigPath(s settings) string {
	fileVersion, id, head := s.fileVersion, sectionV2, ""
	if !s.found {
		fileVersion = 2
		if c.version.known() && !c.version.before(2, 0) {
			fileVersion = 3
		}
		head = fmt.Sprintf("version = %d\n\n", fileVersion)
	}
	if fileVersion >= 3 {
		id = sectionV3
	}
	return fmt.Sprintf("In %s, then restart containerd:\n\n%s[plugins.%q.registry]\n  config_path = %q\n",
		c.cfg.ContainerdConfig, head, id, c.cfg.NodeRoot)
}

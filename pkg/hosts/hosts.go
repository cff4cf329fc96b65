// Package hosts owns containerd's registry directory, certs.d: it puts the mirror first in each hosts.toml that
// containerd would read, keeps it there, takes it out again without a trace, and says what stands in the way.
//
// It merges text, never re-writes it: what is in a file stays byte for byte, and the bytes, modes and links that were
// there before are kept below "<root>/.kioo" until Cleanup has put them back. It does not serve the mirror, does not
// touch containerd's own config.toml, and never restarts anything: containerd reads hosts.toml anew for each pull.
package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-logr/logr"
)

const (
	// DefaultRoot is the registry directory that containerd's documentation and most distributions use.
	DefaultRoot = "/etc/containerd/certs.d"

	// hostsName is the file that containerd reads in a registry's directory.
	hostsName = "hosts.toml"

	// defaultDir is the directory of all registries that have none of their own.
	defaultDir = "_default"

	// maxDirs bounds how many registries' directories one root may have; real ones have a dozen.
	maxDirs = 4096
)

// registryGrammar is a registry's host with or without a port, as it may stand in a directory's name.
var registryGrammar = regexp.MustCompile(
	`^(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)(:[0-9]{1,5})?$`)

// Config says what to write, and where.
type Config struct {
	// Root is the registry directory as this process sees it. Default: DefaultRoot. Its parent must exist.
	Root string

	// NodeRoot is the same directory as containerd sees it, where that differs (a pod that mounts it elsewhere). It
	// is only used for paths that are written into files. Default: Root.
	NodeRoot string

	// Mirror is the mirror's address, "http://127.0.0.1:28500". Only http: containerd would need a certificate for
	// more, and the mirror listens on loopback. Required.
	Mirror string

	// Registries are the registries' hosts that go through the mirror, with their ports: "docker.io",
	// "registry.example.com:5000". Empty, the default, means all of them; then every directory that exists gets
	// the mirror too, because it hides "_default".
	Registries []string

	// Log gets what was changed and why. Default: nothing is logged.
	Log logr.Logger
}

// Action is what was done to one directory.
type Action string

// The actions. They are stable: commands print them.
const (
	Written   Action = "written"   // The mirror was put in.
	Unchanged Action = "unchanged" // The mirror was there already, or there was nothing to take out.
	Restored  Action = "restored"  // What was there before was put back, to the byte.
	Removed   Action = "removed"   // What Kioo had created was removed.
	Stripped  Action = "stripped"  // Only the mirror's entry was taken out: the file had been edited since.
	Refused   Action = "refused"   // The directory was left as it is; Err says why.
)

// Entry is what happened to one directory below the root.
type Entry struct {
	// Dir is the directory's name: "_default", "docker.io".
	Dir    string
	Action Action
	// Note says what a reader should know of it; often empty.
	Note string
	// Err is set if and only if Action is Refused.
	Err error
}

// Result is what one pass did, by directory, in the order of their names.
type Result struct {
	Entries []Entry
}

// Changed says whether anything on disk was changed.
func (r Result) Changed() bool {
	return slices.ContainsFunc(r.Entries, func(e Entry) bool { return e.Action != Unchanged && e.Action != Refused })
}

// err joins the errors of all directories.
func (r Result) err() error {
	errs := make([]error, 0, len(r.Entries))
	for _, e := range r.Entries {
		if e.Err != nil {
			errs = append(errs, fmt.Errorf("registry directory %q: %w", e.Dir, e.Err))
		}
	}
	return errors.Join(errs...)
}

// Configure puts the mirror first in the hosts.toml of every registry that is asked for, and takes it out of those
// that are no longer. Doing it again changes nothing. A directory that can't be merged is left as it is: the others
// are written all the same, the result names it, and the error joins all such errors. A pass that was cut short,
// by a crash even, is completed by the next one or undone by Cleanup.
func Configure(ctx context.Context, cfg Config) (Result, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return Result{}, err
	}
	return configure(ctx, cfg, disk{})
}

// Cleanup undoes all that Configure did: files get back their bytes, modes and links, and what Configure created is
// removed. Where a file was edited since, only the mirror's entry goes, and the result says so. Only Root and Log of
// the configuration are needed. A Watcher that still runs puts everything back: stop it first.
func Cleanup(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Mirror == "" {
		cfg.Mirror = "http://127.0.0.1:28500"
	}
	cfg, err := cfg.validate()
	if err != nil {
		return Result{}, err
	}
	return cleanup(ctx, cfg, disk{})
}

// validate fills in defaults and says what is wrong.
func (c Config) validate() (Config, error) {
	if c.Root == "" {
		c.Root = DefaultRoot
	}
	if !filepath.IsAbs(c.Root) {
		return c, fmt.Errorf("registry directory %q is not an absolute path", c.Root)
	}
	c.Root = filepath.Clean(c.Root)
	if c.Root == "/" {
		return c, errors.New("the registry directory cannot be the root of the file system")
	}
	if c.NodeRoot == "" {
		c.NodeRoot = c.Root
	}
	if !filepath.IsAbs(c.NodeRoot) {
		return c, fmt.Errorf("registry directory on the node %q is not an absolute path", c.NodeRoot)
	}
	if c.Log.GetSink() == nil {
		c.Log = logr.Discard()
	}
	mirror, err := parseMirror(c.Mirror)
	if err != nil {
		return c, err
	}
	c.Mirror = mirror
	registries := make([]string, 0, len(c.Registries))
	for _, r := range c.Registries {
		host, err := parseRegistry(r)
		if err != nil {
			return c, err
		}
		registries = append(registries, host)
	}
	slices.Sort(registries)
	c.Registries = slices.Compact(registries)
	if len(c.Registries) > maxDirs {
		return c, fmt.Errorf("%d registries are more than %d", len(c.Registries), maxDirs)
	}
	return c, nil
}

// parseMirror checks the mirror's address and gives it the one form in which it is written.
func parseMirror(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("mirror address: %w", err)
	}
	switch {
	case u.Scheme != "http":
		return "", fmt.Errorf("mirror address %q: only http:// works without certificates", raw)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "", fmt.Errorf("mirror address %q: want http://host:port and nothing else", raw)
	case net.ParseIP(u.Hostname()) == nil && !registryGrammar.MatchString(u.Hostname()):
		return "", fmt.Errorf("mirror address %q: bad host", raw)
	}
	return "http://" + u.Host, nil
}

// parseRegistry checks a registry's host. Docker Hub's other names become the one that containerd looks for.
func parseRegistry(raw string) (string, error) {
	host := strings.ToLower(raw)
	if !registryGrammar.MatchString(host) {
		return "", fmt.Errorf("registry %q: want a host, or host:port", raw)
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	return host, nil
}

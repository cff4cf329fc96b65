package hosts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What containerd uses where its configuration says nothing.
const (
	// DefaultContainerdConfig is where containerd's own configuration is.
	DefaultContainerdConfig = "/etc/containerd/config.toml"

	defaultStateRoot = "/var/lib/containerd"
	defaultSocket    = "/run/containerd/containerd.sock"
	contentPlugin    = "io.containerd.content.v1.content"
)

// CheckConfig says what to look at. Checking changes nothing.
type CheckConfig struct {
	Config

	// ContainerdConfig is containerd's own configuration, as containerd names it. Default: DefaultContainerdConfig.
	ContainerdConfig string

	// HostRoot is where this process sees the node's root directory: put before all paths that containerd's
	// configuration names, and before those above but Root. Default: empty, they are the same.
	HostRoot string

	// Version is containerd's version, "1.7.35" or "v2.4.2", where it is known. Without it, what is a problem for
	// any version is reported, and the remedies are those that work for all.
	Version string

	// Socket and ContentDir are where this process reaches containerd's socket and its content store. Default: what
	// containerd's configuration says, below HostRoot.
	Socket, ContentDir string

	// Timeout bounds each attempt to connect. Default: two seconds.
	Timeout time.Duration

	// Probe, if set, pulls something through containerd and says whether the mirror heard of it. It runs last, and
	// its error becomes a finding.
	Probe func(context.Context) error
}

// Severity says how much a finding matters.
type Severity int

// The severities, worst first.
const (
	Problem Severity = iota // The mirror, or a part of it, does not work on this node.
	Warning                 // It works, but not as it could, or not for every registry or version.
	Note                    // Worth knowing; nothing needs to be done.
)

// String gives the severity as it is printed.
func (s Severity) String() string { return [...]string{"problem", "warning", "note"}[s] }

// Finding is one thing that stands in the way.
type Finding struct {
	// ID names the kind of finding; it is stable.
	ID       string
	Severity Severity
	What     string // What was found.
	Why      string // What it does to the mirror.
	Mend     string // What to do, with the lines to write where there are any.
}

// checker collects what one Check finds.
type checker struct {
	cfg      CheckConfig
	version  version
	findings []Finding
}

func (c *checker) add(id string, severity Severity, what, why, mend string) {
	c.findings = append(c.findings, Finding{ID: id, Severity: severity, What: what, Why: why, Mend: mend})
}

// onHost gives the path under which this process sees one of the node's.
func (c *checker) onHost(path string) string { return filepath.Join(c.cfg.HostRoot, path) }

// Check finds what keeps containerd on this node from using the mirror, and the mirror from using containerd. It
// returns the findings, worst first, or an error if it could not look at all.
func Check(ctx context.Context, cfg CheckConfig) ([]Finding, error) {
	var err error
	if cfg.Config, err = cfg.Config.validate(); err != nil {
		return nil, err
	}
	if cfg.ContainerdConfig == "" {
		cfg.ContainerdConfig = DefaultContainerdConfig
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	c := &checker{cfg: cfg}
	if c.version, err = parseVersion(cfg.Version); err != nil {
		return nil, err
	}
	settings := c.checkContainerdConfig()
	c.checkHosts()
	c.checkMirror(ctx)
	c.checkSocket(ctx, settings)
	c.checkContent(settings)
	if cfg.Probe != nil && ctx.Err() == nil {
		if err := cfg.Probe(ctx); err != nil {
			c.add("pull-missed-mirror", Problem, "a pull through containerd did not reach the mirror: "+err.Error(),
				"Containerd goes upstream by itself; pulls work, but nothing is shared.",
				"Mend the other findings first; if there are none, look for hosts.toml in containerd's log.")
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return c.findings, nil
}

// checkMirror asks the mirror whether it is there, as containerd would: straight, whatever proxy is set.
func (c *checker) checkMirror(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.Mirror+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, 1<<16); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	}()
	if err != nil {
		c.add("mirror-silent", Problem, fmt.Sprintf("the mirror does not answer at %s/v2/: %v", c.cfg.Mirror, err),
			"Containerd finds nobody there and goes upstream by itself.",
			"Start Kioo on this node, or configure again with the address that it listens on.")
	}
}

func (c *checker) checkSocket(ctx context.Context, s settings) {
	path := c.cfg.Socket
	if path == "" {
		path = c.onHost(strings.TrimPrefix(s.socket, "unix://"))
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return
	}
	mend := "Start containerd, or name its socket."
	if errors.Is(err, fs.ErrPermission) {
		mend = "Run Kioo as root, or let it read and write the socket."
	}
	c.add("socket-unreachable", Problem, fmt.Sprintf("containerd's socket can't be reached: %v", err),
		"Kioo can't know which images the node has, and so neither serves nor announces them.", mend)
}

func (c *checker) checkContent(s settings) {
	dir := c.cfg.ContentDir
	if dir == "" {
		dir = c.onHost(filepath.Join(s.root, contentPlugin))
	}
	err := readable(dir)
	if err == nil {
		// A store that never held anything lacks these, and that is fine.
		if err = readable(filepath.Join(dir, "blobs", "sha256")); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		c.add("content-unreadable", Warning, fmt.Sprintf("containerd's content directory can't be read: %v", err),
			"Blobs are read through containerd's socket instead, which costs more processor time for each byte.",
			"Mount "+filepath.Join(s.root, contentPlugin)+" read-only at the same path, and run as root: "+
				"containerd lets nobody else in.")
	}
}

func readable(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

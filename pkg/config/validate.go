package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
)

var pathPrefixGrammar = regexp.MustCompile(`^(/[A-Za-z0-9][A-Za-z0-9._-]*)+$`)

// validation goes through a Config once, brings names into their normal form, and notes what is wrong.
type validation struct {
	problems []Problem
	// taken holds the field of each address that something listens on.
	taken map[string]string
}

// take notes an address to listen on, and whether something listens there already.
func (v *validation) take(field, address string) {
	first, ok := v.taken[address]
	switch {
	case strings.HasSuffix(address, ":0"): // Any free port is another one each time.
	case ok:
		v.add(field, "is the same address as %s", first)
	default:
		v.taken[address] = field
	}
}

func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// within notes a value outside of its bounds, both of which are allowed.
func within[T cmp.Ordered](v *validation, field string, value, least, most T) {
	if value < least || value > most {
		v.add(field, "is %s, expected %s to %s", plain(value), plain(least), plain(most))
	}
}

// plain writes a value as one would in the file: 5m and not 5m0s.
func plain(value any) string {
	s := fmt.Sprint(value)
	if _, ok := value.(time.Duration); !ok {
		return s
	}
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// must notes a field that has not the only value it can have.
func (v *validation) must(field, value, expected string) {
	switch value {
	case expected:
	case "":
		v.add(field, "is missing, expected %s", expected)
	default:
		v.add(field, "is %s, expected %s", quote(value), expected)
	}
}

func (c *Config) validate() []Problem {
	v := &validation{taken: make(map[string]string)}
	v.must("apiVersion", c.APIVersion, APIVersion)
	v.must("kind", c.Kind, Kind)
	if c.DataDir == "" {
		v.add("dataDir", "is empty, and this user has no cache directory to take instead: name a directory")
	}
	c.Mirror.validate(v)
	c.validateMetrics(v)
	c.validateHealth(v)
	c.validateContainerd(v)
	c.validateRegistries(v)
	c.Peers.validate(v)
	c.validateDiscovery(v)
	c.Kubernetes.validate(v)
	c.Tags.validate(v)
	c.ForeignLayers.validate(v)
	c.Prefetch.validate(v)
	c.Events.validate(v)
	v.networks("upstream.networks", c.Upstream.Networks)
	c.Access.validate(v)

	const ms, s, m, h = time.Millisecond, time.Second, time.Minute, time.Hour
	within(v, "upstream.connectTimeout", c.Upstream.ConnectTimeout, ms, m)
	within(v, "upstream.firstByteTimeout", c.Upstream.FirstByteTimeout, ms, 5*m)
	within(v, "upstream.progressTimeout", c.Upstream.ProgressTimeout, ms, 5*m)
	within(v, "upstream.queueTimeout", c.Upstream.QueueTimeout, ms, 5*m)
	within(v, "upstream.attempts", c.Upstream.Attempts, 1, 10)
	within(v, "upstream.retryWithin", c.Upstream.RetryWithin, 0, 5*m)
	within(v, "flights.grace", c.Flights.Grace, 0, h)
	within(v, "flights.max", c.Flights.Max, 1, 65536)
	within(v, "cache.maxBytes", c.Cache.MaxBytes, 0, 1<<60)
	within(v, "cache.spoolBytes", c.Cache.SpoolBytes, 0, 1<<60)
	within(v, "cache.maxBlobs", c.Cache.MaxBlobs, 1, 10_000_000)
	within(v, "cache.maxTags", c.Cache.MaxTags, 1, 10_000_000)
	within(v, "shutdown.timeout", c.Shutdown.Timeout, 0, h)
	if wrong := oneOf(c.Cache.Keep, KeepAuto, KeepAlways, KeepNever); wrong != "" {
		v.add("cache.keep", "%s", wrong)
	}
	if wrong := oneOf(c.Log.Level, "error", "info", "debug"); wrong != "" {
		v.add("log.level", "%s", wrong)
	}
	if wrong := oneOf(c.Log.Format, "auto", "text", "json"); wrong != "" {
		v.add("log.format", "%s", wrong)
	}
	return v.problems
}

func (m *Mirror) validate(v *validation) {
	if len(m.Listen) == 0 {
		v.add("mirror.listen", "is empty, expected at least one address")
	}
	for i, address := range m.Listen {
		field := fmt.Sprintf("mirror.listen[%d]", i)
		loopback, err := parseListen(address)
		if err != nil {
			v.add(field, "%v", err)
			continue
		}
		if !loopback && !m.AllowRemote {
			v.add(field, "is %s, which other machines can reach: take 127.0.0.1 or [::1], or set mirror.allowRemote",
				quote(address))
		}
		v.take(field, address)
	}
	v.hosts("mirror.hosts", m.Hosts)
	if m.PathPrefix != "" && !pathPrefixGrammar.MatchString(m.PathPrefix) {
		v.add("mirror.pathPrefix", "is %s, expected a path such as /mirror, without a slash at its end", quote(m.PathPrefix))
	}
	if m.DefaultRegistry != "" {
		host, err := reference.ParseRegistry(m.DefaultRegistry)
		if err != nil {
			v.add("mirror.defaultRegistry", "%v", err)
		}
		m.DefaultRegistry = host
	}
	within(v, "mirror.maxConnections", m.MaxConnections, 1, 1_000_000)
	within(v, "mirror.maxHops", m.MaxHops, 1, 64)
}

// hosts checks names by which servers are asked, and brings them into their normal form.
func (v *validation) hosts(field string, hosts []string) {
	for i, host := range hosts {
		field := fmt.Sprintf("%s[%d]", field, i)
		if ip, err := netip.ParseAddr(host); err == nil {
			hosts[i] = ip.String()
		} else if strings.Contains(host, ":") {
			v.add(field, "is %s, expected a host without a port", quote(host))
		} else if wrong := checkName(host); wrong != "" {
			v.add(field, "%s", wrong)
		} else {
			hosts[i] = strings.ToLower(strings.TrimSuffix(host, "."))
		}
	}
	v.unique(field, hosts)
}

func (c *Config) validateHealth(v *validation) {
	if c.Health.Listen == "" {
		return
	}
	loopback, err := parseListen(c.Health.Listen)
	switch {
	case err != nil:
		v.add("health.listen", "%v", err)
		return
	case !loopback:
		v.add("health.listen", "is %s, which other machines can reach: they find the same at metrics.listen", quote(c.Health.Listen))
	}
	v.take("health.listen", c.Health.Listen)
}

func (c *Config) validateMetrics(v *validation) {
	v.hosts("metrics.hosts", c.Metrics.Hosts)
	if c.Metrics.Listen == "" {
		return
	}
	if _, err := parseListen(c.Metrics.Listen); err != nil {
		v.add("metrics.listen", "%v", err)
		return
	}
	v.take("metrics.listen", c.Metrics.Listen)
}

// parseListen checks an address to listen on, and tells whether only this machine can reach it.
func parseListen(address string) (loopback bool, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("is %s, not an address such as 127.0.0.1:28500", quote(address))
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("has the port %s, expected 0 to 65535", quote(port))
	}
	switch host {
	case "localhost":
		return true, nil
	case "":
		return false, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false, fmt.Errorf("has the host %s, expected an IP address or localhost", quote(host))
	}
	return ip.Unmap().IsLoopback(), nil
}

package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
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
	c.validateContainerd(v)
	c.validateRegistries(v)
	c.Peers.validate(v)
	c.validateDiscovery(v)
	c.Kubernetes.validate(v)
	c.Tags.validate(v)

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
	within(v, "tags.freshFor", c.Tags.FreshFor, 0, 30*24*h)
	within(v, "tags.negativeFor", c.Tags.NegativeFor, 0, h)
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

func (c *Config) validateMetrics(v *validation) {
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

func (c *Config) validateRegistries(v *validation) {
	seen := make(map[string]int)
	for i := range c.Registries {
		r, field := &c.Registries[i], fmt.Sprintf("registries[%d]", i)
		if r.Host != AnyRegistry {
			host, err := reference.ParseRegistry(r.Host)
			switch {
			case r.Host == "":
				v.add(field+".host", `is missing, expected a registry such as quay.io, or "*"`)
			case err != nil:
				v.add(field+".host", "%v", err)
			default:
				r.Host = host
			}
		}
		if first, ok := seen[r.Host]; ok && r.Host != "" {
			v.add(field+".host", "is %s, as registries[%d].host is: make one entry of them", quote(r.Host), first)
		}
		seen[r.Host] = i
		within(v, field+".maxConcurrentRequests", r.MaxConcurrentRequests, 1, 1024)
		urls := make(map[string]int)
		for j, e := range r.Endpoints {
			at := fmt.Sprintf("%s.endpoints[%d]", field, j)
			e.validate(v, at, r.Host)
			server := strings.TrimRight(e.URL, "/") + " " + e.RepositoryPrefix
			if first, ok := urls[server]; ok && e.URL != "" {
				v.add(at+".url", "is the same as %s.endpoints[%d].url", field, first)
			}
			urls[server] = j
		}
	}
}

func (e *Endpoint) validate(v *validation, field, registry string) {
	u, wrong := parseEndpoint(e.URL, registry)
	if wrong != "" {
		v.add(field+".url", "%s", wrong)
	} else if u.Scheme == "http" && (e.CAFile != "" || e.ClientCertFile != "") {
		v.add(field+".url", "is %s, and a connection without TLS has no use for caFile and clientCertFile", quote(e.URL))
	}
	if e.RepositoryPrefix != "" {
		if _, err := reference.NewRepository("", e.RepositoryPrefix); err != nil {
			v.add(field+".repositoryPrefix", "%v", err)
		}
	}
	switch {
	case e.ClientCertFile != "" && e.ClientKeyFile == "":
		v.add(field+".clientKeyFile", "is missing, the key of clientCertFile")
	case e.ClientCertFile == "" && e.ClientKeyFile != "":
		v.add(field+".clientCertFile", "is missing, the certificate of clientKeyFile")
	}
}

// parseEndpoint checks an endpoint's URL, and says what is wrong with it. Secrets do not belong into it, so none get
// into messages.
func parseEndpoint(raw, registry string) (u *url.URL, wrong string) {
	if raw == "" {
		return nil, "is missing, expected a URL such as https://registry.example.com"
	}
	if strings.Contains(raw, RegistryVariable) {
		if registry != AnyRegistry {
			return nil, fmt.Sprintf("has %s, which is for the entry %q: write the host", RegistryVariable, AnyRegistry)
		}
		scheme, path, _ := strings.Cut(raw, "://"+RegistryVariable)
		if strings.Contains(path, RegistryVariable) || path != "" && path[0] != '/' {
			return nil, "has " + RegistryVariable + " elsewhere than as the whole host"
		}
		raw = scheme + "://registry.invalid" + path
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, "is not a URL such as https://registry.example.com"
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, "has the scheme " + quote(u.Scheme) + ", expected https:// or http://"
	case u.User != nil:
		return nil, "has a user name or password: put them into credentials.dockerConfig"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return nil, "has a query or a fragment, which an endpoint can't have"
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v2"):
		return nil, "ends in /v2, which is added to it: leave it out"
	}
	if _, err := reference.ParseRegistry(u.Host); err != nil {
		return nil, "has the host " + quote(u.Host) + ", expected a host with an optional port"
	}
	return u, ""
}

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// mib is a mebibyte.
const mib = 1 << 20

// upstreamCopies bounds how often upstream sends an image that all three nodes pull at once. It is one; a node that
// stands still for half a second has its lease given to another as well.
const upstreamCopies = 2

// awkward makes a registry directory with what operators leave in one, as root on a node.
const awkward = `mkdir -p /etc/containerd/certs.d && cd /etc/containerd/certs.d
mkdir -p '%[2]s' docker.io empty quay.io 'registry.example.com:5000' /etc/containerd/shared
printf '# ours; do not touch\r\nserver = "http://%[1]s"\r\n\r\n[host."http://%[1]s"]\r\n  capabilities = ["pull", "resolve"] # no newline at the end' >'%[2]s/hosts.toml'
printf 'server = "https://registry-1.docker.io"\n' >/etc/containerd/shared/hub.toml
ln -sfn ../../shared/hub.toml docker.io/hosts.toml
printf '[host."https://quay.io"]\n  capabilities = ["pull", "resolve"]\n  [host."https://quay.io".header]\n    x-team = ["a", "b"]\n' >quay.io/hosts.toml
chmod 0600 quay.io/hosts.toml
touch -d 2001-02-03 quay.io/hosts.toml
printf 'not a certificate' >'registry.example.com:5000/ca.crt'
printf 'a file, no directory\n' >README`

// snapshot tells all of a registry directory: names, kinds, modes, owners, targets of links, and bytes.
const snapshot = `cd /etc/containerd && find certs.d shared -printf '%P|%y|%m|%U:%G|%l|' \( -type f -exec sha256sum {} \; -o -printf '\n' \) | sort`

// testInstall installs the chart beside what is there, and has helm test look at it.
func (s *suite) testInstall(t *testing.T) {
	for _, n := range s.nodes {
		s.node(t, n, fmt.Sprintf(awkward, s.upstream.host, strings.ReplaceAll(s.upstream.host, ":", "_")+"_"))
		// Without the mirror it is asked as well, and not by TLS.
		dir := "/etc/containerd/certs.d/" + s.private.host
		s.node(t, n, fmt.Sprintf("mkdir -p %[1]s && printf 'server = \"http://%[2]s\"\n' >%[1]s/hosts.toml", dir, s.private.host))
		s.node(t, n, snapshot+" >/root/before")
	}
	for _, n := range s.nodes {
		s.kubectl(t, "label", "node", n, "topology.kubernetes.io/zone=zone-"+n[len(n)-1:])
		s.kubectl(t, "taint", "node", n, taint+"=:NoSchedule")
	}
	s.must(t, s.helm, append([]string{"install", "kioo", chart}, s.values()...)...)
	s.must(t, s.helm, "test", "kioo", "--namespace", namespace, "--timeout", "1m")
	eventually(t, 20*time.Second, "each mirror knows the two others", func() bool { return s.members(t) })
	eventually(t, 20*time.Second, "start-up taints are gone", func() bool {
		return !strings.Contains(s.kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].spec.taints}"), taint)
	})
	for _, n := range s.nodes {
		if got, want := s.node(t, n, "cat /var/lib/kioo/zone"), n+" zone-"+n[len(n)-1:]+"\n"; got != want {
			t.Errorf("%s takes its zone to be %q, not %q", n, got, want)
		}
	}
}

// members says whether each mirror knows all others.
func (s *suite) members(t *testing.T) bool {
	t.Helper()
	for _, n := range s.nodes {
		if s.metric(t, n, `kioo_discovery_members.state="live".`) != float64(len(s.nodes)-1) {
			return false
		}
	}
	return true
}

// testTogether starts one pod on every node at once, of an image that only upstream has.
func (s *suite) testTogether(t *testing.T) {
	img := s.images.push(t, "together", 24*mib, 8*mib, mib)
	s.upstream.registry.Forget()
	before := s.metrics(t, "kioo_upstream_bytes_total")
	start := time.Now()
	s.apply(t, s.onEach("together", img.tag))
	s.kubectl(t, "rollout", "status", "deployment/together", "--timeout=90s")
	t.Logf("%d nodes pulled %d MiB in %s", len(s.nodes), img.size/mib, time.Since(start).Round(100*time.Millisecond))
	var sent, direct int64
	for _, l := range img.layers {
		n := s.upstream.registry.BlobBytes(l.String())
		t.Logf("upstream sent %s: %d bytes", l, n)
		sent += n
	}
	var all int64
	for _, r := range s.upstream.registry.Requests() {
		all += r.Sent
		if !strings.HasPrefix(r.Header.Get("User-Agent"), "kioo/") {
			direct++
			t.Logf("%s asked upstream for %s", r.Header.Get("User-Agent"), r.URI)
		}
	}
	copies := float64(sent) / float64(img.size)
	t.Logf("upstream sent the layers %.2f times", copies)
	if copies > upstreamCopies || sent < img.size {
		t.Errorf("upstream sent the layers %.2f times to %d nodes, expected about once", copies, len(s.nodes))
	}
	defer s.kubectl(t, "delete", "deployment", "together")
	if direct > 0 {
		t.Errorf("containerd went to upstream itself %d times", direct)
	}
	counted := s.metrics(t, "kioo_upstream_bytes_total") - before
	// A request that is cut short leaves bytes in sockets that upstream sent and nobody read.
	if counted < float64(img.size) || counted > 1.02*float64(all) {
		t.Errorf("the mirrors count %.0f bytes from upstream, which sent %d", counted, all)
	}
}

// testUpstreamDown starts pods while upstream is down, on nodes that never had the image. What the first node has of it
// is in its cache alone, for kind's containerd discards layers once they are unpacked.
func (s *suite) testUpstreamDown(t *testing.T) {
	first, second, third := s.nodes[1], s.nodes[2], s.nodes[0]
	img := s.images.push(t, "down", 4*mib, mib)
	s.apply(t, s.pod("first", img.tag, first))
	s.runs(t, "first", time.Minute)
	// containerd collects what it discards when something changes that makes it look: here, leases that come and go.
	for _, l := range img.layers {
		eventually(t, time.Minute, "containerd discards layer "+l.String(), func() bool {
			s.node(t, first, "id=$(ctr -n k8s.io leases create 2>/dev/null) && ctr -n k8s.io leases rm --sync $id >/dev/null 2>&1")
			return s.node(t, first, "ctr -n k8s.io content ls -q 2>/dev/null | grep -c "+l.Hex+" || true") == "0\n"
		})
	}
	s.upstream.Stop()
	resumed := false
	defer func() {
		if !resumed {
			_ = s.upstream.Resume()
		}
	}()
	s.apply(t, s.pod("by-tag", img.tag, second), s.pod("by-digest", img.digest, third))
	s.runs(t, "by-tag", time.Minute)
	s.runs(t, "by-digest", time.Minute)
	if err := s.upstream.Resume(); err != nil {
		t.Fatal(err)
	}
	resumed = true
	again := s.images.push(t, "again", mib)
	s.apply(t, s.pod("again", again.tag, second))
	s.runs(t, "again", time.Minute)
	s.remove(t, "first", "by-tag", "by-digest", "again")
}

package config

import (
	"regexp"
	"strings"
)

// Kubernetes configures what the mirror does with the API of the cluster that its node is in. Without that API, or
// while it can't be reached, the mirror works as it does without this section.
type Kubernetes struct {
	// Service is the headless service of all members, as namespace/name. Its EndpointSlices, watched, say where members
	// are, at their port called "discovery", and which of them went away. Empty leaves that to discovery.bootstrap.
	// Default: empty.
	Service string `yaml:"service"`
	// NodeName is the name of this node's Node object, which all that follows needs; the flag --node-name says it too.
	// Default: empty.
	NodeName string `yaml:"nodeName"`
	// Topology takes the node's zone from its label topology.kubernetes.io/zone, or else its region, where peers.zone
	// is empty. Default: true.
	Topology bool `yaml:"topology"`
	// Events tells by events on the node what an operator must know: that containerd does not use the mirror, that it
	// discards layers, that no other member is found. Default: true.
	Events bool `yaml:"events"`
	// StartupTaint is the key of a taint that is taken off the node when its mirror answers, so that pods that do not
	// tolerate it wait for that. The chart has kioo.dev/not-ready. Empty leaves taints alone. Default: empty.
	StartupTaint string `yaml:"startupTaint"`
	// Kubeconfig is a file that says where the API is and who asks. Default: empty, the pod's service account.
	Kubeconfig string `yaml:"kubeconfig"`
}

// Wanted says whether the API is to be used at all.
func (k *Kubernetes) Wanted() bool { return k.Service != "" || k.NodeName != "" }

// ServiceName gives the parts of service in a valid configuration.
func (k *Kubernetes) ServiceName() (namespace, name string) {
	namespace, name, _ = strings.Cut(k.Service, "/")
	return namespace, name
}

var (
	labelName    = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
	serviceName  = regexp.MustCompile(`^` + labelName + `/` + labelName + `$`)
	nodeName     = regexp.MustCompile(`^` + labelName + `(\.` + labelName + `)*$`)
	taintGrammar = regexp.MustCompile(`^(` + labelName + `(\.` + labelName + `)*/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
)

func (k *Kubernetes) validate(v *validation) {
	if k.Service != "" && !serviceName.MatchString(k.Service) {
		v.add("kubernetes.service", "is %s, expected a namespace and a name such as kioo-system/kioo", quote(k.Service))
	}
	if k.NodeName != "" && (len(k.NodeName) > maxHostName || !nodeName.MatchString(k.NodeName)) {
		v.add("kubernetes.nodeName", "is %s, not a node's name", quote(k.NodeName))
	}
	if k.StartupTaint != "" && !taintGrammar.MatchString(k.StartupTaint) {
		v.add("kubernetes.startupTaint", "is %s, not a taint's key such as kioo.dev/not-ready", quote(k.StartupTaint))
	}
}

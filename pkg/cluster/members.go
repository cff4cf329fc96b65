package cluster

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// discoveryPort is what the service calls the port of the members' hash table.
const discoveryPort = "discovery"

// errNotListed says that the API has not answered yet.
var errNotListed = errors.New("the Kubernetes API has not listed the members yet")

// MembersConfig says whose members.
type MembersConfig struct {
	Client Client
	// Namespace and Service name the headless service of all members. Required.
	Namespace, Service string
	// Departed, if set, hears the address of each member that went away: its pod is gone, about to go, or no longer
	// ready, as when its node is lost. It must not wait.
	Departed func(netip.AddrPort)
	Log      logr.Logger
}

// Members knows the members by the EndpointSlices of their service. It is safe for concurrent use.
type Members struct {
	cfg      MembersConfig
	informer cache.SharedIndexInformer

	mu sync.Mutex
	// slices holds what each slice says, by its name: the addresses, and whether the pod there serves.
	slices map[string]map[netip.AddrPort]bool
}

var _ discovery.Bootstrapper = (*Members)(nil)

// NewMembers makes a Members that knows nobody until Run has listed them.
func NewMembers(cfg MembersConfig) (*Members, error) {
	m := &Members{cfg: cfg, slices: map[string]map[netip.AddrPort]bool{}}
	// Without a resync period, nothing is asked again that a watch has told.
	m.informer = cache.NewSharedIndexInformer(m.listWatch(cfg.Client.EndpointSlices(cfg.Namespace)), &discoveryv1.EndpointSlice{}, 0, cache.Indexers{})
	err := m.informer.SetTransform(slim)
	if err == nil {
		_, err = m.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { m.note(o) },
			UpdateFunc: func(_, o any) { m.note(o) },
			DeleteFunc: m.deleted,
		})
	}
	return m, err
}

// listWatch lists and follows the slices of the service.
func (m *Members) listWatch(api EndpointSlices) cache.ListerWatcher {
	ours := discoveryv1.LabelServiceName + "=" + m.cfg.Service
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = ours
			return api.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = ours
			return api.Watch(ctx, o)
		},
	}, api)
}

// slim drops what is of no use here before it is kept.
func slim(o any) (any, error) {
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		s.ManagedFields, s.Annotations = nil, nil
	}
	return o, nil
}

// Run follows the service until ctx ends. While the API can't be reached, the last answer counts.
func (m *Members) Run(ctx context.Context) { m.informer.Run(ctx.Done()) }

// Peers implements discovery.Bootstrapper: all members but those that are about to go, this one included.
func (m *Members) Peers(context.Context) ([]netip.AddrPort, error) {
	if !m.informer.HasSynced() {
		return nil, errNotListed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []netip.AddrPort
	for _, s := range m.slices {
		for a := range s {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare) // Slices may overlap while they are re-arranged.
	return slices.Compact(all), nil
}

// addresses reads one slice. Endpoints that terminate are left out: they say goodbye.
func addresses(s *discoveryv1.EndpointSlice) map[netip.AddrPort]bool {
	found := map[netip.AddrPort]bool{}
	for _, p := range s.Ports {
		if p.Port == nil || p.Name == nil || *p.Name != discoveryPort || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Terminating != nil && *e.Conditions.Terminating {
				continue
			}
			for _, address := range e.Addresses {
				if ip, err := netip.ParseAddr(address); err == nil {
					found[netip.AddrPortFrom(ip.Unmap(), uint16(*p.Port))] = e.Conditions.Serving == nil || *e.Conditions.Serving
				}
			}
		}
	}
	return found
}

func (m *Members) note(o any) {
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		m.replace(s.Name, addresses(s))
	}
}

func (m *Members) deleted(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		m.replace(s.Name, nil)
	}
}

// replace notes what a slice says now, and tells of members that served and do so nowhere any more.
func (m *Members) replace(name string, now map[netip.AddrPort]bool) {
	m.mu.Lock()
	before := m.slices[name]
	m.slices[name] = now
	if len(now) == 0 {
		delete(m.slices, name)
	}
	var departed []netip.AddrPort
	for a, served := range before {
		if served && !m.serves(a) {
			departed = append(departed, a)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(departed, netip.AddrPort.Compare)
	for _, a := range departed {
		m.cfg.Log.V(1).Info("a member is gone", "address", a.String())
		if m.cfg.Departed != nil {
			m.cfg.Departed(a)
		}
	}
}

func (m *Members) serves(a netip.AddrPort) bool {
	for _, s := range m.slices {
		if s[a] {
			return true
		}
	}
	return false
}

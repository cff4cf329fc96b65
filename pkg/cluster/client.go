package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

// ErrNoCluster says that this process has no service account, so that it is in no cluster.
var ErrNoCluster = errors.New("no service account of a Kubernetes cluster")

// Few requests are made here at all; these bounds hold if something makes one after another.
const queriesPerSecond, queriesBurst = 2, 10

// Client is what is asked of the Kubernetes API. The typed clientset has that as well, and with it the clients and
// types of all groups that there are, of which the linker can leave out nothing.
type Client struct {
	Nodes Nodes
	// Events are those of the namespace default, where those about what has no namespace are.
	Events         Events
	DaemonSets     func(namespace string) DaemonSets
	EndpointSlices func(namespace string) EndpointSlices
}

// Nodes reads nodes and changes them.
type Nodes interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*corev1.Node, error)
	Patch(
		ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string,
	) (*corev1.Node, error)
}

// Events writes events.
type Events interface {
	Create(ctx context.Context, event *corev1.Event, opts metav1.CreateOptions) (*corev1.Event, error)
	Patch(
		ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string,
	) (*corev1.Event, error)
}

// DaemonSets reads DaemonSets.
type DaemonSets interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*appsv1.DaemonSet, error)
}

// EndpointSlices follows EndpointSlices.
type EndpointSlices interface {
	List(ctx context.Context, opts metav1.ListOptions) (*discoveryv1.EndpointSliceList, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// Connect makes a client from a kubeconfig file, or from the pod's service account where the name is empty. It talks
// to nobody yet. Messages are protobuf, which is a third of JSON for what is watched here.
func Connect(kubeconfig, userAgent string) (Client, error) {
	var cfg *rest.Config
	var err error
	if kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else if cfg, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
		err = ErrNoCluster
	}
	var client Client
	if err == nil {
		cfg.UserAgent, cfg.RateLimiter = userAgent, flowcontrol.NewTokenBucketRateLimiter(queriesPerSecond, queriesBurst)
		cfg.ContentType = runtime.ContentTypeProtobuf
		cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		client, err = newClient(cfg)
	}
	if err != nil {
		return Client{}, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	return client, nil
}

// newClient makes a client whose groups share connections and the bounds on requests.
func newClient(cfg *rest.Config) (Client, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme)); err != nil {
		return Client{}, err
	}
	cfg.NegotiatedSerializer = rest.CodecFactoryForGeneratedClient(scheme, serializer.NewCodecFactory(scheme)).WithoutConversion()
	transport, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return Client{}, err
	}
	core, coreErr := groupClient(cfg, transport, "/api", corev1.SchemeGroupVersion)
	apps, appsErr := groupClient(cfg, transport, "/apis", appsv1.SchemeGroupVersion)
	discovery, discoveryErr := groupClient(cfg, transport, "/apis", discoveryv1.SchemeGroupVersion)
	if err := errors.Join(coreErr, appsErr, discoveryErr); err != nil {
		return Client{}, err
	}
	params := runtime.NewParameterCodec(scheme)
	return Client{
		Nodes:  kind[corev1.Node, *corev1.Node]{core, params, "nodes", ""},
		Events: kind[corev1.Event, *corev1.Event]{core, params, "events", metav1.NamespaceDefault},
		DaemonSets: func(namespace string) DaemonSets {
			return kind[appsv1.DaemonSet, *appsv1.DaemonSet]{apps, params, "daemonsets", namespace}
		},
		EndpointSlices: func(namespace string) EndpointSlices {
			return kind[discoveryv1.EndpointSliceList, *discoveryv1.EndpointSliceList]{discovery, params, "endpointslices", namespace}
		},
	}, nil
}

func groupClient(cfg *rest.Config, transport *http.Client, path string, version schema.GroupVersion) (*rest.RESTClient, error) {
	group := rest.CopyConfig(cfg)
	group.APIPath, group.GroupVersion = path, &version
	return rest.RESTClientForConfigAndClient(group, transport)
}

// kind is the objects of one kind: client-go's gentype without its fakes, which need the schemas of OpenAPI.
type kind[T any, P interface {
	*T
	runtime.Object
}] struct {
	group     rest.Interface
	params    runtime.ParameterCodec
	resource  string
	namespace string // Empty for those that have none.
}

func (k kind[T, P]) request(verb *rest.Request, options runtime.Object) *rest.Request {
	return verb.NamespaceIfScoped(k.namespace, k.namespace != "").Resource(k.resource).VersionedParams(options, k.params)
}

func (k kind[T, P]) result(ctx context.Context, r *rest.Request) (*T, error) {
	object := P(new(T))
	err := r.Do(ctx).Into(object)
	return object, err
}

// Get reads an object.
func (k kind[T, P]) Get(ctx context.Context, name string, opts metav1.GetOptions) (*T, error) {
	return k.result(ctx, k.request(k.group.Get(), &opts).Name(name))
}

// Create makes an object.
func (k kind[T, P]) Create(ctx context.Context, object *T, opts metav1.CreateOptions) (*T, error) {
	return k.result(ctx, k.request(k.group.Post(), &opts).Body(P(object)))
}

// Patch changes an object.
func (k kind[T, P]) Patch(
	ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string,
) (*T, error) {
	return k.result(ctx, k.request(k.group.Patch(pt), &opts).Name(name).SubResource(subresources...).Body(data))
}

// List reads a list, which T is.
func (k kind[T, P]) List(ctx context.Context, opts metav1.ListOptions) (*T, error) {
	return k.result(ctx, k.request(k.group.Get(), &opts))
}

// Watch follows the objects of a list.
func (k kind[T, P]) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	opts.Watch = true
	return k.request(k.group.Get(), &opts).Watch(ctx)
}

package kubernetes_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	componentsapi "github.com/dapr/dapr/pkg/apis/components/v1alpha1"
	resiliencyapi "github.com/dapr/dapr/pkg/apis/resiliency/v1alpha1"
	subscriptionsapi "github.com/dapr/dapr/pkg/apis/subscriptions/v2alpha1"
	daprscheme "github.com/dapr/dapr/pkg/client/clientset/versioned/scheme"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	overlayPod     = "pod"
	overlayNative  = "pod-native"
	overlaySidecar = "sidecar"
	overlayNode    = "node"
	overlayCluster = "cluster"
)

var overlays = []string{overlayPod, overlayNative, overlaySidecar, overlayNode, overlayCluster}

// manifests are the objects of one overlay.
type manifests struct {
	objects []runtime.Object
	// yaml holds each object as kustomize renders it.
	yaml [][]byte
}

// render has kustomize build the overlay and decodes each object strictly: an unknown or repeated field fails the test.
func render(t *testing.T, overlay string) manifests {
	t.Helper()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
		Run(filesys.MakeFsOnDisk(), checkout.Path("deploy", "overlays", overlay))
	require.NoError(t, err)

	known := runtime.NewScheme()
	require.NoError(t, scheme.AddToScheme(known))
	require.NoError(t, daprscheme.AddToScheme(known))
	require.NoError(t, resiliencyapi.AddToScheme(known))
	require.NoError(t, subscriptionsapi.AddToScheme(known))
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, known, known, json.SerializerOptions{Yaml: true, Strict: true})
	var m manifests
	for _, resource := range resources.Resources() {
		raw, err := resource.AsYAML()
		require.NoError(t, err)
		object, _, err := strict.Decode(raw, nil, nil)
		require.NoError(t, err, "%s", raw)
		m.objects = append(m.objects, object)
		m.yaml = append(m.yaml, raw)
	}
	return m
}

// all returns the objects of one type.
func all[T runtime.Object](m manifests) []T {
	var found []T
	for _, object := range m.objects {
		if o, ok := object.(T); ok {
			found = append(found, o)
		}
	}
	return found
}

// templates returns the Pod templates by the name of what makes Pods of them.
func (m manifests) templates() map[string]corev1.PodTemplateSpec {
	found := map[string]corev1.PodTemplateSpec{}
	for _, d := range all[*appsv1.Deployment](m) {
		found[d.Name] = d.Spec.Template
	}
	for _, d := range all[*appsv1.DaemonSet](m) {
		found[d.Name] = d.Spec.Template
	}
	for _, c := range all[*batchv1.CronJob](m) {
		found[c.Name] = c.Spec.JobTemplate.Spec.Template
	}
	return found
}

func TestOverlaysHoldWhatTheySay(t *testing.T) {
	for overlay, want := range map[string][]string{
		overlayPod:     {"dapr-bolt-backup", "todo"},
		overlayNative:  {"dapr-bolt-backup", "todo"},
		overlaySidecar: {"todo-api"},
		overlayNode:    {"dapr-bolt", "todo-api", "todo-scheduler"},
		overlayCluster: {"todo-api", "todo-scheduler"},
	} {
		t.Run(overlay, func(t *testing.T) {
			m := render(t, overlay)
			require.Equal(t, want, slices.Sorted(maps.Keys(m.templates())))
			for _, object := range m.objects {
				meta, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
				require.NoError(t, err)
				if meta["kind"] != "Namespace" {
					require.Equal(t, "todo", meta["metadata"].(map[string]any)["namespace"], "namespace of %v", meta["kind"])
				}
			}
		})
	}
}

// A Pod that two processes could write to would end one of them: the file is locked.
func TestOneProcessPerFile(t *testing.T) {
	for _, overlay := range []string{overlayPod, overlayNative, overlaySidecar} {
		for _, d := range all[*appsv1.Deployment](render(t, overlay)) {
			require.Equal(t, int32(1), *d.Spec.Replicas, overlay)
			require.Equal(t, appsv1.RecreateDeploymentStrategyType, d.Spec.Strategy.Type, overlay)
		}
	}
	for _, d := range all[*appsv1.DaemonSet](render(t, overlayNode)) {
		require.Zero(t, d.Spec.UpdateStrategy.RollingUpdate.MaxSurge.IntValue())
	}
}

func TestEveryContainerIsConfined(t *testing.T) {
	for _, overlay := range overlays {
		for name, template := range render(t, overlay).templates() {
			require.NotNil(t, template.Spec.SecurityContext, "%s %s", overlay, name)
			require.True(t, *template.Spec.SecurityContext.RunAsNonRoot, "%s %s", overlay, name)
			require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, template.Spec.SecurityContext.SeccompProfile.Type)
			require.False(t, *template.Spec.AutomountServiceAccountToken)
			for _, c := range containersOf(template.Spec) {
				where := overlay + " " + name + " " + c.Name
				require.False(t, *c.SecurityContext.AllowPrivilegeEscalation, where)
				require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, where)
				require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop, where)
				require.False(t, c.Resources.Requests.Cpu().IsZero(), where)
				require.False(t, c.Resources.Requests.Memory().IsZero(), where)
				require.False(t, c.Resources.Limits.Memory().IsZero(), where)
				if c.SecurityContext.RunAsUser != nil {
					require.Equal(t, "folders", c.Name, "only the node's folders are made by root")
				}
			}
		}
	}
}

func containersOf(spec corev1.PodSpec) []corev1.Container {
	return append(slices.Clone(spec.InitContainers), spec.Containers...)
}

// What the sidecar, dapr-bolt and the app are given to stop must fit into what the Pod is given.
func TestGracefulTimesFit(t *testing.T) {
	const (
		app     = 10 // --shutdown-timeout
		sidecar = 15 // dapr.io/graceful-shutdown-seconds
		bolt    = 10 // a clean stop of dapr-bolt, at most
	)
	for _, test := range []struct {
		overlay, name string
		needs         int64
	}{
		{overlayPod, "todo", max(app, sidecar)},
		{overlaySidecar, "todo-api", max(app, sidecar)},
		{overlayNative, "todo", app + sidecar + sidecar + bolt},
		{overlayNode, "todo-api", max(app, sidecar)},
		{overlayNode, "todo-scheduler", max(app, sidecar)},
		{overlayNode, "dapr-bolt", bolt},
		{overlayCluster, "todo-api", max(app, sidecar)},
		{overlayCluster, "todo-scheduler", max(app, sidecar)},
	} {
		t.Run(test.overlay+" "+test.name, func(t *testing.T) {
			m := render(t, test.overlay)
			template := m.templates()[test.name]
			pod := injected(t, m, test.name)
			needs := test.needs
			for _, c := range containersOf(pod.Spec) {
				if c.Lifecycle != nil {
					require.Equal(t, "dapr-bolt", c.Name)
					require.Greater(t, c.Lifecycle.PreStop.Sleep.Seconds, test.needs, "dapr-bolt must outlast the sidecars")
					needs = c.Lifecycle.PreStop.Sleep.Seconds + bolt
				}
			}
			require.Greater(t, *template.Spec.TerminationGracePeriodSeconds, needs)
			for key, value := range template.Annotations {
				if key == "dapr.io/graceful-shutdown-seconds" {
					require.Equal(t, "15", value)
				}
			}
		})
	}
}

// The components of deploy/ are those of components/, except for who may use them.
func TestComponentsAreTheSameAsForDevelopment(t *testing.T) {
	own := map[string]bool{"publishingScopes": true, "subscriptionScopes": true}
	ofServers := map[string]bool{
		"engine": true, "endpoints": true, "url": true, "username": true, "password": true, "caCert": true, "clientCert": true, "clientKey": true,
	}
	for _, overlay := range overlays {
		components := all[*componentsapi.Component](render(t, overlay))
		require.Len(t, components, 2)
		for _, c := range components {
			want := readComponent(t, c.Name)
			require.Equal(t, want.Spec.Type, c.Spec.Type)
			settings := map[string]string{}
			for _, item := range c.Spec.Metadata {
				if !own[item.Name] && !(overlay == overlayCluster && ofServers[item.Name]) {
					settings[item.Name] = item.Value.String()
				}
			}
			wanted := map[string]string{}
			for _, item := range want.Spec.Metadata {
				wanted[item.Name] = item.Value.(string)
			}
			require.Equal(t, wanted, settings, c.Name)
			require.Equal(t, []string{"todo-api", "todo-scheduler"}, c.Scopes)
		}
	}
}

func withoutVolumes(object runtime.Object) runtime.Object {
	if d, ok := object.(*appsv1.Deployment); ok {
		d = d.DeepCopy()
		d.Spec.Template.Spec.Volumes = nil
		return d
	}
	return object
}

// The declared sidecar is of the version that the tests run.
func TestSidecarVersion(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	want := "daprio/daprd:" + strings.TrimPrefix(checkout.DaprVersion(), "v")
	for _, overlay := range []string{overlayPod, overlayNative} {
		require.Equal(t, want, container(t, injected(t, render(t, overlay), "todo"), "scheduler-daprd").Image)
	}
}

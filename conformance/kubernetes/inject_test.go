package kubernetes_test

import (
	"testing"

	componentsapi "github.com/dapr/dapr/pkg/apis/components/v1alpha1"
	"github.com/dapr/dapr/pkg/injector/consts"
	"github.com/dapr/dapr/pkg/injector/patcher"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// socketVolume and socketFolderVariable are what the injector calls them.
const (
	socketVolume         = consts.ComponentsUDSVolumeName
	socketFolderVariable = consts.ComponentsUDSMountPathEnvVar
	sidecarContainer     = consts.SidecarContainerName
	// daprdFolderVariable is what daprd reads (pkg/components/pluggable). The injector sets another name.
	daprdFolderVariable = "DAPR_COMPONENTS_SOCKETS_FOLDER"
)

// injected makes a Pod of a template and has the runtime's injector patch it, set up as its webhook does
// (pkg/injector/service, getPodPatchOperations) with the defaults of Dapr's Helm chart.
func injected(t *testing.T, m manifests, name string) *corev1.Pod {
	t.Helper()
	template, ok := m.templates()[name]
	require.True(t, ok, "no Pod template of %s", name)
	pod := &corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
	pod.Name, pod.Namespace = name+"-0", "todo"

	var components []componentsapi.Component
	for _, c := range all[*componentsapi.Component](m) {
		components = append(components, *c)
	}
	sidecar := patcher.NewSidecarConfig(pod)
	sidecar.GetInjectedComponentContainers = func(appID, namespace string) ([]corev1.Container, error) {
		require.Equal(t, pod.Namespace, namespace)
		return patcher.Injectable(appID, components), nil
	}
	sidecar.Mode = consts.ModeKubernetes
	sidecar.Namespace = pod.Namespace
	sidecar.MTLSEnabled = true
	sidecar.ImagePullPolicy = corev1.PullIfNotPresent
	sidecar.OperatorAddress = patcher.ServiceAPI.Address("dapr-system", "cluster.local")
	sidecar.SentryAddress = patcher.ServiceSentry.Address("dapr-system", "cluster.local")
	sidecar.RunAsNonRoot = true
	sidecar.ReadOnlyRootFilesystem = true
	sidecar.SidecarDropALLCapabilities = true
	sidecar.ControlPlaneNamespace = "dapr-system"
	sidecar.ControlPlaneTrustDomain = "cluster.local"
	sidecar.SentrySPIFFEID = "spiffe://cluster.local/ns/dapr-system/dapr-sentry"
	sidecar.CurrentTrustAnchors = []byte("trust anchors")
	sidecar.KubeClusterDomain = "cluster.local"
	sidecar.PlacementAddress = patcher.ServicePlacement.Address("dapr-system", "cluster.local")
	sidecar.SchedulerEnabled = true
	sidecar.SidecarImage = "daprio/daprd:1.18.2"
	sidecar.SetFromPodAnnotations()
	patch, err := sidecar.GetPatch()
	require.NoError(t, err)
	if len(patch) == 0 {
		return pod
	}
	patched, err := patcher.PatchPod(pod, patch)
	require.NoError(t, err)
	return patched
}

// readComponent reads a component of components/.
func readComponent(t *testing.T, name string) harness.Component {
	t.Helper()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	c, err := harness.ReadComponent(checkout.Path("components", name+".yaml"))
	require.NoError(t, err)
	return c
}

// container finds a container by name.
func container(t *testing.T, pod *corev1.Pod, name string) corev1.Container {
	t.Helper()
	for _, c := range containersOf(pod.Spec) {
		if c.Name == name {
			return c
		}
	}
	require.Fail(t, "the Pod has no container "+name)
	return corev1.Container{}
}

// mountOf returns where a container mounts a volume, "" if it does not.
func mountOf(c corev1.Container, volume string) string {
	for _, m := range c.VolumeMounts {
		if m.Name == volume {
			return m.MountPath
		}
	}
	return ""
}

// variable returns the value of an environment variable, "" if it is not set.
func variable(c corev1.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

func volume(t *testing.T, pod *corev1.Pod, name string) corev1.Volume {
	t.Helper()
	var found []corev1.Volume
	for _, v := range pod.Spec.Volumes {
		if v.Name == name {
			found = append(found, v)
		}
	}
	require.Len(t, found, 1, "volumes named %s", name)
	return found[0]
}

// checkMounts wants each mount to have a volume, and no mount or volume of the template to be lost on the way.
func checkMounts(t *testing.T, m manifests, name string, pod *corev1.Pod) {
	t.Helper()
	for _, c := range containersOf(pod.Spec) {
		paths := map[string]bool{}
		for _, mount := range c.VolumeMounts {
			volume(t, pod, mount.Name)
			require.False(t, paths[mount.MountPath], "%s mounts two volumes at %s", c.Name, mount.MountPath)
			paths[mount.MountPath] = true
		}
	}
	template := m.templates()[name]
	for _, v := range template.Spec.Volumes {
		require.Equal(t, v, volume(t, pod, v.Name))
	}
	for _, c := range containersOf(template.Spec) {
		require.Subset(t, container(t, pod, c.Name).VolumeMounts, c.VolumeMounts, c.Name)
		require.Subset(t, container(t, pod, c.Name).Env, c.Env, c.Name)
	}
}

func TestInjectedPods(t *testing.T) {
	for _, test := range []struct {
		overlay, name string
		sockets       string // the volume in which sidecar and dapr-bolt meet
		sidecars      []string
		native        bool
	}{
		{overlayPod, "todo", socketVolume, []string{sidecarContainer, "scheduler-daprd"}, false},
		{overlayNative, "todo", "sockets", []string{sidecarContainer, "scheduler-daprd"}, true},
		{overlaySidecar, "todo-api", socketVolume, []string{sidecarContainer}, false},
	} {
		t.Run(test.overlay, func(t *testing.T) {
			m := render(t, test.overlay)
			pod := injected(t, m, test.name)
			checkMounts(t, m, test.name, pod)

			bolt := container(t, pod, "dapr-bolt")
			folder := mountOf(bolt, test.sockets)
			require.NotEmpty(t, folder)
			require.Equal(t, folder, variable(bolt, "DAPR_BOLT_SOCKET_DIR"))
			for _, name := range test.sidecars {
				sidecar := container(t, pod, name)
				require.Equal(t, folder, mountOf(sidecar, test.sockets), name)
				require.Equal(t, folder, variable(sidecar, daprdFolderVariable), name)
				require.Equal(t, "230MiB", variable(sidecar, "GOMEMLIMIT"), name)
			}
			require.NotNil(t, volume(t, pod, test.sockets).EmptyDir)
			if !test.native {
				for _, name := range append(test.sidecars, "dapr-bolt") {
					require.Equal(t, folder, variable(container(t, pod, name), socketFolderVariable), name)
				}
			}

			data := volume(t, pod, "data")
			require.Nil(t, data.EmptyDir)
			require.Equal(t, "dapr-bolt-data", data.PersistentVolumeClaim.ClaimName)
			require.Equal(t, "/data", mountOf(bolt, "data"))
			claimed := false
			for _, claim := range all[*corev1.PersistentVolumeClaim](m) {
				claimed = claimed || claim.Name == data.PersistentVolumeClaim.ClaimName
			}
			require.True(t, claimed, "the claim is part of the overlay")

			checkSidecar(t, pod)
			// One user for all of them, so that the socket, which is its owner's alone, opens.
			for _, c := range containersOf(pod.Spec) {
				require.Nil(t, c.SecurityContext.RunAsUser, c.Name)
			}
			// The native form alone starts one after the other.
			var native []string
			for _, c := range pod.Spec.InitContainers {
				if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
					native = append(native, c.Name)
				}
			}
			if test.native {
				require.Equal(t, []string{"dapr-bolt", "scheduler-daprd", sidecarContainer}, native)
				require.NotNil(t, bolt.StartupProbe, "what comes next waits for it")
			} else {
				require.Empty(t, native)
			}
		})
	}
}

// checkSidecar wants of the injected sidecar what the production checklist does.
func checkSidecar(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	sidecar := container(t, pod, sidecarContainer)
	require.Contains(t, sidecar.Args, "--enable-mtls")
	require.Contains(t, sidecar.Args, "--enable-app-health-check")
	require.False(t, sidecar.Resources.Requests.Cpu().IsZero())
	require.False(t, sidecar.Resources.Requests.Memory().IsZero())
	require.False(t, sidecar.Resources.Limits.Memory().IsZero())
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, sidecar.SecurityContext.SeccompProfile.Type)
	require.Equal(t, consts.TokenVolumeKubernetesMountPath, mountOf(sidecar, consts.TokenVolumeName))
	secrets := map[string]string{}
	for _, e := range sidecar.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			secrets[e.Name] = e.ValueFrom.SecretKeyRef.Name
		}
	}
	require.Equal(t, map[string]string{"DAPR_API_TOKEN": "dapr-api-token", "APP_API_TOKEN": "app-api-token"}, secrets)
}

func TestInjectedPodsOfANode(t *testing.T) {
	m := render(t, overlayNode)
	bolt := container(t, injected(t, m, "dapr-bolt"), "dapr-bolt")
	boltPod := injected(t, m, "dapr-bolt")
	require.Len(t, boltPod.Spec.Containers, 1, "dapr-bolt itself has no sidecar")
	checkMounts(t, m, "dapr-bolt", boltPod)
	sockets := volume(t, boltPod, "sockets").HostPath.Path
	require.Equal(t, mountOf(bolt, "sockets"), variable(bolt, "DAPR_BOLT_SOCKET_DIR"))
	require.Equal(t, "/var/lib/dapr-bolt", volume(t, boltPod, "data").HostPath.Path)

	users := map[int64]bool{*boltPod.Spec.SecurityContext.RunAsUser: true}
	for _, name := range []string{"todo-api", "todo-scheduler"} {
		pod := injected(t, m, name)
		checkMounts(t, m, name, pod)
		checkSidecar(t, pod)
		require.Equal(t, sockets, volume(t, pod, "dapr-bolt-sockets").HostPath.Path)
		sidecar := container(t, pod, sidecarContainer)
		require.NotEmpty(t, mountOf(sidecar, "dapr-bolt-sockets"))
		require.Equal(t, mountOf(sidecar, "dapr-bolt-sockets"), variable(sidecar, daprdFolderVariable))
		for _, mount := range sidecar.VolumeMounts {
			if mount.Name == "dapr-bolt-sockets" {
				require.False(t, mount.ReadOnly, "to connect is to write")
			}
		}
		for _, c := range pod.Spec.Containers {
			if c.Name != sidecarContainer {
				require.Empty(t, mountOf(c, "dapr-bolt-sockets"), "the app has no business with the socket")
			}
		}
		user := *pod.Spec.SecurityContext.RunAsUser
		require.False(t, users[user], "a user of its own")
		users[user] = true
		require.Equal(t, *boltPod.Spec.SecurityContext.RunAsGroup, *pod.Spec.SecurityContext.RunAsGroup)
	}
}

// Why the Pods declare their volumes: see what becomes of one that does not.
func TestInjectorMakesUndeclaredVolumesEmptyDirs(t *testing.T) {
	m := render(t, overlaySidecar)
	for i, object := range m.objects {
		if _, ok := object.(*appsv1.Deployment); ok {
			m.objects[i] = withoutVolumes(object)
		}
	}
	pod := injected(t, m, "todo-api")
	require.NotNil(t, volume(t, pod, "data").EmptyDir)
	// And with no volume at all, the injector's list of volumes for the sidecar is overwritten by that for the sockets.
	for _, v := range pod.Spec.Volumes {
		require.NotEqual(t, consts.TokenVolumeName, v.Name, "the injector has been mended: README.md need not warn any more")
	}
}

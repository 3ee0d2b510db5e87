package kubernetes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// node stands for a node: what the volumes of its Pods are, and what its containers' images hold.
type node struct {
	t         *testing.T
	harness   *harness.Harness
	manifests manifests
	// programs holds the binary of each image, by the image's name without its tag.
	programs map[string]string
	// dir holds the volumes, one folder each.
	dir string
	// as wraps the program of a container so that it runs as the Pod's user; nil: all run as the test's.
	as func(t *testing.T, program string, user, group int64) string
	// pods counts the Pods, for the names of their processes.
	pods int
}

func newNode(t *testing.T, m manifests) *node {
	t.Helper()
	programs, err := harness.TestPrograms()
	require.NoError(t, err)
	h := harness.ForTest(t)
	return &node{
		t: t, harness: h, manifests: m, dir: h.Dir("volumes"),
		programs: map[string]string{
			"dapr-bolt":    programs.Bolt,
			"todo":         programs.Todo,
			"daprio/daprd": programs.Daprd,
		},
	}
}

// secrets stand for the ones that deploy/README.md has made.
var secrets = map[string]string{"dapr-api-token": "token of the sidecars", "app-api-token": "token of the apps"}

// localForm replaces what only a control plane can give an injected sidecar: resources then come from files, which are
// the overlay's own objects, and there is no mTLS.
func localForm(t *testing.T, n *node, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	pod = pod.DeepCopy()
	const resources = "/resources-of-the-cluster"
	dir := filepath.Join(n.dir, "cluster")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for i, object := range n.manifests.objects {
		if strings.HasPrefix(object.GetObjectKind().GroupVersionKind().Group, "dapr.io") {
			path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
			if object.GetObjectKind().GroupVersionKind().Kind == "Configuration" {
				path = filepath.Join(dir, "configuration.yaml")
			}
			require.NoError(t, os.WriteFile(path, n.manifests.yaml[i], 0o644))
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if c := &list[i]; c.Name == sidecarContainer {
				c.Args = standalone(c.Args, resources)
				c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "cluster", MountPath: resources})
			}
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "cluster", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: "cluster"},
	}})
	return pod
}

func standalone(args []string, resources string) []string {
	needsControlPlane := []string{"--control-plane-address", "--sentry-address", "--placement-host-address", "--scheduler-host-address"}
	var local []string
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case slices.Contains(needsControlPlane, arg):
			i++
		case arg == "--enable-mtls":
		case arg == "--mode":
			local = append(local, arg, "standalone")
			i++
		case arg == "--config":
			local = append(local, arg, resources+"/configuration.yaml")
			i++
		default:
			local = append(local, arg)
		}
	}
	return append(local, "--resources-path", resources)
}

package kubernetes_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The servers are started as those of the tests are, of the version that the tests run, and as confined as all else.
func TestEtcdServers(t *testing.T) {
	m := render(t, "../etcd")
	set := all[*appsv1.StatefulSet](m)[0]
	c := set.Spec.Template.Spec.Containers[0]
	for _, flag := range harness.EtcdSettings {
		require.Contains(t, c.Command, flag)
	}
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	goMod, err := os.ReadFile(checkout.Path("conformance", "go.mod"))
	require.NoError(t, err)
	version := c.Image[strings.LastIndex(c.Image, ":")+1:]
	require.True(t, strings.Contains(string(goMod), "go.etcd.io/etcd/server/v3 "+version+" "), "conformance/go.mod pins another version than %s", version)

	require.True(t, *set.Spec.Template.Spec.SecurityContext.RunAsNonRoot)
	require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
	require.False(t, *set.Spec.Template.Spec.AutomountServiceAccountToken)
	require.NotEmpty(t, set.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	require.Equal(t, 1, all[*policyv1.PodDisruptionBudget](m)[0].Spec.MaxUnavailable.IntValue())
	require.Len(t, all[*networkingv1.NetworkPolicy](m), 1)
	// One command line names all of them.
	require.Equal(t, int(*set.Spec.Replicas), strings.Count(strings.Join(c.Command, " "), "=https://etcd-")) // in --initial-cluster
}
